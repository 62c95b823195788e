//! The comparison can fail: one body that differs for each way in which it may, and a whole task that it lets pass.

use super::*;

const BODY: &str = "Grüße, 蜂群 🐝\0\"";

/// A program that was given [`BODY`] and gave it back in every way, and one subtask of it.
fn wanted() -> WantedTask {
    let sum = BodySum::of(BODY);
    WantedTask {
        name: String::new(),
        payload: None,
        stdin: Some(sum),
        result: WantedResult::Text(sum),
        artifacts: vec![("made".into(), sum)],
        output: Some([sum, BodySum::of("said")]),
        subtasks: vec![WantedTask {
            name: "one".into(),
            payload: Some(normal_sum(&BODY.into())),
            stdin: None,
            result: WantedResult::Json(normal_sum(&serde_json::json!([{ "result": BODY }]))),
            artifacts: Vec::new(),
            output: None,
            subtasks: Vec::new(),
        }],
    }
}

fn shown() -> ShownTask {
    let sum = BodySum::of(BODY);
    let result = serde_json::json!([{ "task": "task_7", "title": "whatever", "result": BODY }]).to_string();
    let part = ShownTask {
        id: "task_2".into(),
        name: "one".into(),
        status: "SUCCEEDED".into(),
        payload: BODY.into(),
        result: Some(result),
        ..ShownTask::default()
    };
    ShownTask {
        id: "task_1".into(),
        status: "SUCCEEDED".into(),
        stdin: Some(BODY.into()),
        result: Some(BODY.into()),
        artifacts: [("made".to_owned(), ShownArtifact { hash: sum.hash.to_hex().to_string(), bytes: sum })].into(),
        output: Some([sum, BodySum::of("said")]),
        subtasks: vec![part],
        ..ShownTask::default()
    }
}

/// What is found when the node shows it otherwise, in a few words each.
fn found(change: impl FnOnce(&mut ShownTask)) -> Vec<String> {
    let mut shown = shown();
    change(&mut shown);
    let words = |broken: Broken| match broken {
        Broken::BodyDiffers { task, what, shown, .. } => {
            format!("{task}: {what}, {}", if shown.is_some() { "other" } else { "none" })
        }
        Broken::BodyMisnamed { task, what, .. } => format!("{task}: {what}, misnamed"),
        Broken::BodyUnreadable { task, what, .. } => format!("{task}: {what}, unreadable"),
        other => panic!("{other}"),
    };
    compare(0, "op", &wanted(), &shown, true).into_iter().map(words).collect()
}

#[test]
fn a_task_that_shows_what_it_was_given_and_made_passes() {
    assert_eq!(found(|_| ()), [""; 0]);
}

#[test]
fn a_body_that_came_back_with_one_byte_changed_is_found() {
    let changed = || BODY.replacen('G', "g", 1);
    assert_eq!(found(|task| task.stdin = Some(changed())), ["task_1: the standard input, other"]);
    assert_eq!(found(|task| task.result = Some(changed())), ["task_1: the result, other"]);
    assert_eq!(found(|task| task.output.as_mut().unwrap()[0] = BodySum::of(changed())), ["task_1: standard output, other"]);
    assert_eq!(found(|task| task.output.as_mut().unwrap()[1] = BodySum::of("sais")), ["task_1: standard error, other"]);
    let artifact = |task: &mut ShownTask| task.artifacts.get_mut("made").unwrap().bytes = BodySum::of(changed());
    assert_eq!(found(artifact), ["task_1: the artifact made, other"]);
    assert_eq!(found(|task| task.subtasks[0].payload = changed().into()), ["task_2: the payload, other"]);
    assert_eq!(found(|task| task.subtasks[0].result = Some(changed())), ["task_2: the result, other"]);
}

#[test]
fn a_body_that_is_missing_or_cut_is_found() {
    assert_eq!(found(|task| task.stdin = None), ["task_1: the standard input, none"]);
    assert_eq!(found(|task| task.result = None), ["task_1: the result, none"]);
    assert_eq!(found(|task| task.output = None), ["task_1: standard output, none", "task_1: standard error, none"]);
    assert_eq!(found(|task| task.artifacts.clear()), ["task_1: the artifact made, none"]);
    assert_eq!(found(|task| task.subtasks[0].payload = Value::Null), ["task_2: the payload, none"]);
    assert_eq!(found(|task| task.subtasks.clear()), ["task_1: its subtask one, unreadable"]);
    // In the middle of a character, as a program that counts characters would not see it.
    let cut = String::from_utf8_lossy(&BODY.as_bytes()[..3]).into_owned();
    assert_eq!(found(|task| task.result = Some(cut)), ["task_1: the result, other"]);
}

#[test]
fn a_body_that_nobody_asked_for_is_found() {
    let mut none = wanted();
    (none.stdin, none.result) = (None, WantedResult::Nothing);
    assert_eq!(compare(0, "op", &none, &shown(), true).len(), 2);
    let more = |task: &mut ShownTask| {
        let made = task.artifacts["made"].clone();
        task.artifacts.insert("more".into(), made);
    };
    assert_eq!(found(more), ["task_1: the artifact more, other"]);
}

#[test]
fn an_artifact_under_a_hash_that_is_not_its_own_is_found() {
    let misnamed = |task: &mut ShownTask| task.artifacts.get_mut("made").unwrap().hash = BodySum::of("other").hash.to_string();
    assert_eq!(found(misnamed), ["task_1: the artifact made, misnamed"]);
}

#[test]
fn of_a_task_that_has_not_succeeded_only_what_it_was_given_is_compared() {
    let running = |task: &mut ShownTask| {
        (task.status, task.result, task.output) = ("RUNNING".into(), None, None);
        task.artifacts.clear();
        task.subtasks.clear();
    };
    assert_eq!(found(running), [""; 0]);
    assert_eq!(found(|task| (task.status, task.stdin) = ("RUNNING".into(), None)), ["task_1: the standard input, none"]);
}
