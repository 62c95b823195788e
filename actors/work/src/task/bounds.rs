//! Bounds how large a task may be: each part of what was asked for, and all of it together, in bytes.
//!
//! Held where a task enters, by whichever door: from clients, from plans, and where one is sent on its way again. What is let in
//! fits into an event, a message between nodes and a view's row.

use hiveward_kernel::body::{Body, INLINE_BYTES_MAX, Label};

use super::{
    scatter::Role,
    spec::{CommandSpec, SKILLS_MAX, TITLE_BYTES_MAX, TaskSpec, Work},
};

/// The most bytes of all arguments of a program.
pub const ARGV_BYTES_MAX: usize = 128 << 10;
/// The most arguments, each of which costs a program more than its bytes.
pub const ARGV_MAX: usize = 16_384;
/// The most bytes of all variables of a program, names and values.
pub const ENV_BYTES_MAX: usize = 128 << 10;
pub const ENV_MAX: usize = 4_096;
/// The most bytes of a path: what Linux takes.
pub const PATH_BYTES_MAX: usize = 4_096;
/// The most bytes of the name of a kind, a skill, a gate, or a step of a plan.
pub const NAME_BYTES_MAX: usize = 128;
pub const LABELS_MAX: usize = 32;
pub const LABEL_KEY_BYTES_MAX: usize = 128;
pub const LABEL_VALUE_BYTES_MAX: usize = 512;
/// The most bytes of a whole task as the ledger and messages between nodes carry it: payloads and standard input of more than
/// [`INLINE_BYTES_MAX`] are beside it.
pub const TASK_BYTES_MAX: usize = 192 << 10;
/// The most bytes of all tasks of one submission, one scatter or one plan together.
pub const TOGETHER_BYTES_MAX: usize = 6 << 20;
/// The most tasks that one plan may ask for.
pub const SUBTASKS_MAX: u32 = 10_000;

/// The bytes that a task takes beside its own texts, about.
const TASK_BYTES: usize = 256;
const PIECE_BYTES: usize = 8;
const ID_BYTES: usize = 18;

/// A part of a task that is too large, or cannot be. `field` is below the task, and empty if it is all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    pub field: String,
    pub what: String,
    /// Whether it is too much; otherwise it is not possible at all.
    pub too_much: bool,
}

fn too_much(field: &str, what: String) -> Result<(), OutOfBounds> {
    Err(OutOfBounds { field: field.to_owned(), what, too_much: true })
}

fn wrong(field: String, what: String) -> Result<(), OutOfBounds> {
    Err(OutOfBounds { field, what, too_much: false })
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().map(|text| text.len() + PIECE_BYTES).sum()
}

/// Counts what a body takes where it is named.
fn bytes_here(body: &Body) -> usize {
    match body {
        Body::Inline(bytes) => bytes.len() + PIECE_BYTES,
        Body::Blob { hash, .. } => hash.len() + 2 * PIECE_BYTES,
    }
}

impl CommandSpec {
    fn argv_and_env_bytes(&self) -> [usize; 2] {
        let env = self.env.iter().map(|(name, value)| name.len() + value.len() + 2 * PIECE_BYTES).sum();
        [texts(self.argv.iter().map(String::as_str)), env]
    }

    fn bytes(&self) -> usize {
        self.argv_and_env_bytes().iter().sum::<usize>()
            + self.cwd.as_ref().map_or(0, String::len)
            + self.stdin.as_ref().map_or(0, bytes_here)
    }
}

impl TaskSpec {
    /// Returns what it takes in the ledger, in a message and in memory; never less than its encoded form.
    pub fn bytes(&self) -> usize {
        let work = match &self.work {
            Work::Command(command) => command.bytes(),
            Work::Kind { kind, payload } => kind.len() + payload.as_ref().map_or(0, bytes_here),
        };
        let labels: usize = self.labels.iter().map(|label| label.key.len() + label.value.len() + 2 * PIECE_BYTES).sum();
        TASK_BYTES
            + self.title.len()
            + work
            + self.depends_on.len() * ID_BYTES
            + texts(self.skills.iter().map(|skill| &**skill))
            + labels
            + self.gate.as_ref().map_or(0, |gate| gate.name.len() + gate.command.bytes() + TASK_BYTES)
            + self.parent.as_ref().map_or(0, |(_, name)| name.len() + ID_BYTES)
            + self.role.as_ref().map_or(0, Role::bytes)
    }

    /// Returns the part that takes most of what can be large, and its bytes: who has to shorten the task begins there.
    fn largest(&self) -> (String, usize) {
        let of = |at: &str, command: &CommandSpec| {
            let [argv, env] = command.argv_and_env_bytes();
            [(format!("{at}.argv"), argv), (format!("{at}.env"), env)]
        };
        let work = match &self.work {
            Work::Command(command) => of("command", command).to_vec(),
            Work::Kind { payload, .. } => vec![("payload".to_owned(), payload.as_ref().map_or(0, bytes_here))],
        };
        let gate = self.gate.iter().flat_map(|gate| of("gate.command", &gate.command));
        let role = match &self.role {
            Some(Role::Scatter(scatter)) => scatter.reduce.as_ref().map(|reduce| {
                let (field, bytes) = reduce.largest();
                (format!("reduce.{field}"), bytes)
            }),
            Some(Role::Part { item }) => item.as_ref().map(|item| (String::new(), item.text.len())),
            _ => None,
        };
        work.into_iter().chain(gate).chain(role).max_by_key(|(_, bytes)| *bytes).unwrap_or_default()
    }

    /// Checks that every part of it is within its bound, and all of it. The error names the field and says what is wrong.
    pub fn within_bounds(&self) -> Result<(), OutOfBounds> {
        if self.title.len() > TITLE_BYTES_MAX {
            return too_much("title", format!("a title has at most {TITLE_BYTES_MAX} bytes"));
        }
        match &self.work {
            Work::Command(command) => command_within("command", command)?,
            Work::Kind { kind, payload } => {
                if kind.is_empty() || kind.len() > NAME_BYTES_MAX {
                    return too_much("kind", format!("kind has 1 to {NAME_BYTES_MAX} bytes"));
                }
                inline("payload", payload.as_ref())?;
            }
        }
        if self.skills.len() > SKILLS_MAX {
            return too_much("skills", format!("a task has at most {SKILLS_MAX} skills"));
        }
        if let Some(n) = self.skills.iter().position(|skill| skill.is_empty() || skill.len() > NAME_BYTES_MAX) {
            return too_much(&format!("skills.{n}"), format!("a skill has 1 to {NAME_BYTES_MAX} bytes"));
        }
        labels(&self.labels)?;
        if let Some(gate) = &self.gate {
            if gate.name.len() > NAME_BYTES_MAX {
                return too_much("gate.name", format!("a gate's name has at most {NAME_BYTES_MAX} bytes"));
            }
            command_within("gate.command", &gate.command)?;
        }
        if self.plan.as_ref().is_some_and(|plan| plan.subtasks_max > SUBTASKS_MAX) {
            return too_much("plan.subtasksMax", format!("a plan has at most {SUBTASKS_MAX} tasks"));
        }
        if let Some((_, name)) = &self.parent
            && name.len() > NAME_BYTES_MAX
        {
            return too_much("name", format!("a name has at most {NAME_BYTES_MAX} bytes"));
        }
        let bytes = self.bytes();
        if bytes > TASK_BYTES_MAX {
            let (field, largest) = self.largest();
            let all = format!("the task takes {bytes} bytes, at most {TASK_BYTES_MAX}");
            return too_much(&field, format!("{all}, {largest} of them here: give what is large as payload or stdin"));
        }
        Ok(())
    }
}

fn labels(labels: &[Label]) -> Result<(), OutOfBounds> {
    if labels.len() > LABELS_MAX {
        return too_much("labels", format!("a task has at most {LABELS_MAX} labels"));
    }
    let large = |label: &Label| label.key.len() > LABEL_KEY_BYTES_MAX || label.value.len() > LABEL_VALUE_BYTES_MAX;
    if let Some(n) = labels.iter().position(large) {
        let what = format!("a label's key has at most {LABEL_KEY_BYTES_MAX} bytes and its value {LABEL_VALUE_BYTES_MAX}");
        return too_much(&format!("labels.{n}"), what);
    }
    Ok(())
}

fn inline(field: &str, body: Option<&Body>) -> Result<(), OutOfBounds> {
    match body {
        Some(Body::Inline(bytes)) if bytes.len() > INLINE_BYTES_MAX => {
            too_much(field, format!("{} bytes are kept beside the ledger, and were not", bytes.len()))
        }
        _ => Ok(()),
    }
}

/// Checks that a program's arguments are within their bounds. The error says what is wrong, in words.
pub fn argv_within(argv: &[String]) -> Result<(), String> {
    if argv.len() <= ARGV_MAX && argv.iter().map(String::len).sum::<usize>() <= ARGV_BYTES_MAX {
        return Ok(());
    }
    Err(format!("argv has at most {ARGV_MAX} arguments and {ARGV_BYTES_MAX} bytes"))
}

/// Checks that a program and what it is given are within their bounds; `at` is its field.
pub fn command_within(at: &str, command: &CommandSpec) -> Result<(), OutOfBounds> {
    let field = |name: &str| format!("{at}.{name}");
    if command.argv.first().is_none_or(String::is_empty) {
        return wrong(field("argv"), "argv needs at least the program".into());
    }
    argv_within(&command.argv).or_else(|what| too_much(&field("argv"), format!("{what}; use stdin")))?;
    if command.argv.iter().any(|arg| arg.contains('\0')) {
        return wrong(field("argv"), "an argument cannot hold a zero byte".into());
    }
    let bytes: usize = command.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if command.env.len() > ENV_MAX || bytes > ENV_BYTES_MAX {
        let what = format!("env has at most {ENV_MAX} variables and {ENV_BYTES_MAX} bytes; use stdin");
        return too_much(&field("env"), what);
    }
    let bad = |(name, value): &&(String, String)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0');
    if let Some((name, _)) = command.env.iter().find(bad) {
        return wrong(field("env"), format!("{name:?} is no name for a variable, or its value holds a zero byte"));
    }
    if command.cwd.as_ref().is_some_and(|cwd| cwd.len() > PATH_BYTES_MAX) {
        return too_much(&field("cwd"), format!("a path has at most {PATH_BYTES_MAX} bytes"));
    }
    inline(&field("stdin"), command.stdin.as_ref())
}

/// Checks that tasks that come together are within their bound. The error says what is wrong, in words.
pub fn together<'a>(specs: impl ExactSizeIterator<Item = &'a TaskSpec>) -> Result<(), String> {
    let count = specs.len();
    let bytes: usize = specs.map(TaskSpec::bytes).sum();
    if bytes <= TOGETHER_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "{count} tasks take {bytes} bytes together, at most {TOGETHER_BYTES_MAX}; nothing was done: give what is large as payload or \
         stdin, which are kept once beside the ledger, or fewer tasks at once"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{swarm::testing::spec, task::gate::GateSpec};

    fn command(change: impl FnOnce(&mut CommandSpec)) -> TaskSpec {
        let mut command = CommandSpec { argv: vec!["true".into()], ..CommandSpec::default() };
        change(&mut command);
        spec(|task| task.work = Work::Command(command))
    }

    /// A task with one part as large as `bytes` says, at its limit and one more.
    type Sized = (&'static str, usize, fn(usize) -> TaskSpec);

    #[test]
    fn each_part_of_a_task_is_taken_at_its_limit_and_named_at_one_byte_more() {
        let parts: [Sized; 12] = [
            ("title", TITLE_BYTES_MAX, |n| spec(|task| task.title = "é".repeat(n / 2) + &"x".repeat(n % 2))),
            ("kind", NAME_BYTES_MAX, |n| spec(|task| task.work = Work::Kind { kind: "k".repeat(n).into(), payload: None })),
            ("command.argv", ARGV_BYTES_MAX, |n| command(|it| it.argv.push("x".repeat(n - 4)))),
            ("command.argv", ARGV_MAX, |n| command(|it| it.argv = vec!["x".to_owned(); n])),
            ("command.env", ENV_BYTES_MAX, |n| command(|it| it.env.push(("A".into(), "x".repeat(n - 1))))),
            ("command.cwd", PATH_BYTES_MAX, |n| command(|it| it.cwd = Some("x".repeat(n)))),
            ("command.stdin", INLINE_BYTES_MAX, |n| command(|it| it.stdin = Some(Body::Inline(vec![0xff; n])))),
            ("skills", SKILLS_MAX, |n| spec(|task| task.skills = vec!["x".into(); n])),
            ("skills.0", NAME_BYTES_MAX, |n| spec(|task| task.skills = vec!["x".repeat(n).into()])),
            ("labels.0", LABEL_VALUE_BYTES_MAX, |n| {
                spec(|task| task.labels = vec![Label { key: "k".into(), value: "x".repeat(n) }])
            }),
            ("name", NAME_BYTES_MAX, |n| spec(|task| task.parent = Some((task.id, "x".repeat(n))))),
            ("gate.command.argv", ARGV_BYTES_MAX, |n| {
                let command = CommandSpec { argv: vec!["x".repeat(n)], ..CommandSpec::default() };
                spec(|task| task.gate = Some(GateSpec { name: "g".into(), command, timeout_ms: 1, retriable: false }))
            }),
        ];
        for (field, max, make) in parts {
            assert_eq!(make(max).within_bounds(), Ok(()), "{field}");
            for over in [max + 1, max * 1000] {
                let refused = make(over).within_bounds().unwrap_err();
                assert_eq!((refused.field.as_str(), refused.too_much), (field, true), "{refused:?}");
            }
        }
        let both = command(|it| {
            it.argv.push("x".repeat(ARGV_BYTES_MAX - 4));
            it.env.push(("A".into(), "x".repeat(ENV_BYTES_MAX - 1)));
        });
        let refused = both.within_bounds().unwrap_err();
        assert_eq!(refused.field, "command.env", "each part is within its bound, all of it is not, and one is the largest");
    }

    #[test]
    fn what_a_task_is_said_to_take_is_never_less_than_what_it_takes() {
        for seed in 0..3_000 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let text = |dice: &mut fastrand::Rng, max: usize| -> String { "é".repeat(dice.usize(0..max)) };
            let task = command(|it| {
                it.argv.extend((0..dice.usize(0..300)).map(|_| text(&mut dice, 40)));
                it.env = (0..dice.usize(0..300)).map(|_| (text(&mut dice, 20), text(&mut dice, 40))).collect();
                it.stdin = Some(Body::Inline(vec![0xff; dice.usize(0..5_000)]));
            });
            let task = TaskSpec {
                depends_on: (0..dice.usize(0..100)).map(|_| task.id).collect(),
                labels: (0..dice.usize(0..40)).map(|_| Label { key: text(&mut dice, 9), value: text(&mut dice, 90) }).collect(),
                parent: Some((task.id, text(&mut dice, 60))),
                total_timeout_ms: Some(u64::MAX),
                run_timeout_ms: Some(u64::MAX),
                queue_timeout_ms: Some(u64::MAX),
                delay_ms: u64::MAX,
                ..task
            };
            let encoded = rmp_serde::to_vec(&task).unwrap().len();
            assert!(task.bytes() >= encoded, "seed {seed}: {} for {encoded}", task.bytes());
        }
    }
}
