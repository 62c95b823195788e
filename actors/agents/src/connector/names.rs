//! Reads what the names of sessions say.

use hiveward_kernel::id::TaskId;

/// Reads which attempt a session belongs to from its name: `task_0192…-3`, `task_0192…-3-gate` and `task_0192…-3-run0`.
pub fn attempt_of(name: &str) -> Option<(TaskId, u32)> {
    let (mut task, mut number) = name.rsplit_once('-')?;
    if ["gate", "activity", "run", "check", "terminal", "setup", "teardown"]
        .contains(&number.trim_end_matches(|c: char| c.is_ascii_digit()))
    {
        (task, number) = task.rsplit_once('-')?;
    }
    Some((task.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use hiveward_kernel::id::AgentId;

    use super::*;

    #[test]
    fn only_names_of_attempts_are_taken_for_attempts() {
        let task = TaskId::new();
        assert_eq!(attempt_of(&format!("{task}-12")), Some((task, 12)));
        assert_eq!(attempt_of(&format!("{task}-12-gate")), Some((task, 12)));
        assert_eq!(attempt_of(&format!("{task}-12-run3")), Some((task, 12)));
        assert_eq!(attempt_of(&format!("{task}-12-terminal0")), Some((task, 12)));
        for other in [format!("{}-worker", AgentId::new()), format!("{task}"), "notes".into(), format!("{task}-x")] {
            assert_eq!(attempt_of(&other), None, "{other}");
        }
    }
}
