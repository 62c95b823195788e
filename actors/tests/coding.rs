//! What the connector of coding agents promises, with a program that speaks the protocol and does what it is told to:
//! for deaths, hostility and races that a real coding agent cannot be made to show. The real ones are in `tests/agents`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fs, path::Path, sync::Arc, time::Duration};

use hiveward_agents::{
    activity::{Activity, What},
    connector::{Ask, End, Job, Report, StopHow, StopWhy, Told, activity_dir, last_terminal_dir, session_dir},
    session::{self, Attached, SessionDir, Stream},
};
use hiveward_catalogue::agent::{
    coding::{AnswerKind, CodingSpec, Permission, Policy, Rule, RulePermission, WorkspaceSpec, WorktreeSpec},
    spec::{ConnectorSpec, EnvVar},
};
use hiveward_kernel::{id::ApprovalId, lease::Lease};

use support::{agent::*, *};

const AT_ONCE: StopHow = StopHow::AtOnce;

fn coding(change: impl FnOnce(&mut CodingSpec)) -> ConnectorSpec {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/speaks_claude.py");
    let mut spec = CodingSpec::new(vec!["python3".into(), script.display().to_string()]);
    change(&mut spec);
    ConnectorSpec::ClaudeCode(Arc::new(spec))
}

fn rule(tool: &str, path: Option<&str>, command: Option<&str>, decision: RulePermission) -> Rule {
    Rule { tool: tool.into(), path: path.map(Into::into), command: command.map(Into::into), decision }
}

fn prompt(lease: Lease, text: &str) -> Job {
    kind(lease, "prompt", &serde_json::to_string(text).unwrap())
}

fn activity(bed: &Bed, lease: Lease) -> Vec<Activity> {
    let path = SessionDir::new(activity_dir(bed.data(), lease)).stream(Stream::Stdout);
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn transcript(bed: &Bed, lease: Lease) -> String {
    fs::read_to_string(SessionDir::new(session_dir(bed.data(), lease)).stream(Stream::Stdout)).unwrap_or_default()
}

async fn asks(bed: &mut Bed) -> Ask {
    bed.look("a question", |report| if let Report::Asks { ask } = report { Some((**ask).clone()) } else { None }).await
}

async fn does(bed: &Bed, lease: Lease, what: impl Fn(&What) -> bool) {
    until("the activity", || activity(bed, lease).iter().any(|activity| what(&activity.what)).then_some(())).await;
}

fn allow(approval: ApprovalId) -> Told {
    Told::Answer { approval, decision: Permission::Allow, by: "ann".into(), message: None }
}

fn work(bed: &Bed, lease: Lease, file: &str) -> std::path::PathBuf {
    bed.data().join("attempts").join(format!("{}-{}", lease.task, lease.attempt)).join("work").join(file)
}

#[tokio::test]
async fn a_prompt_comes_to_a_result_an_activity_and_a_transcript_and_leaves_nothing_running() {
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "say hello\ntool\nsay bye")).await;
    assert_eq!(bed.text_of(lease).await, "bye");
    let activity = activity(&bed, lease);
    assert!(activity.iter().zip(1..).all(|(activity, seq)| activity.seq == seq), "{activity:#?}");
    let said = activity.iter().filter_map(|a| if let What::Said { text } = &a.what { Some(text.as_str()) } else { None });
    assert_eq!(said.collect::<Vec<_>>(), ["hello", "bye"]);
    let text = transcript(&bed, lease);
    assert!(text.contains("hello\n") && text.contains("▶ Read ") && text.ends_with("bye\n"), "{text}");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    assert_eq!(bed.counts(lease), (1, 1));
    bed.nothing_left();
}

#[tokio::test]
async fn a_question_waits_through_a_new_life_and_the_same_call_goes_on() {
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "write a.txt")).await;
    let ask = asks(&mut bed).await;
    assert_eq!((&*ask.tool, ask.lease), ("Write", lease));
    assert!(ask.input["file_path"].as_str().unwrap().ends_with("work/a.txt"), "{ask:?}");
    let before = bed.processes();
    bed.connector.release().await;
    bed.next_life();
    bed.connector.start().await.unwrap();
    bed.connector.run(prompt(lease, "write a.txt")).await;
    let again = asks(&mut bed).await;
    assert_eq!((again.approval, &again.input), (ask.approval, &ask.input), "it is the same question");
    assert_eq!(bed.processes(), before, "it is the same process");
    bed.connector.tell(lease, allow(ask.approval)).await.unwrap();
    // Removed with the attempt's directory at its end: looked at by the program itself.
    assert_eq!(bed.text_of(lease).await, "wrote a.txt");
    let late = bed.connector.tell(lease, allow(ask.approval)).await.unwrap_err();
    assert!(late.contains("does not run"), "{late}");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn an_answer_that_was_given_while_a_life_ended_is_heard_by_the_program_once() {
    let shared = tempfile::tempdir().unwrap();
    let path = shared.path().to_owned();
    let mut bed = Bed::new(coding(|spec| spec.workspace = WorkspaceSpec::Directory { path }));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    let job = prompt(lease, "write a.txt\nwrite b.txt");
    bed.connector.run(job.clone()).await;
    let first = asks(&mut bed).await;
    for _ in 0..5 {
        // Whoever answers may have died between any two steps: it is answered again by the next life.
        let _ = bed.connector.tell(lease, allow(first.approval)).await;
        bed.connector.release().await;
        bed.next_life();
        bed.connector.run(job.clone()).await;
        bed.started(lease).await;
    }
    let second = bed
        .look("the second question", |report| match report {
            Report::Asks { ask } if ask.approval != first.approval => Some(ask.approval),
            _ => None,
        })
        .await;
    bed.connector.tell(lease, allow(second)).await.unwrap();
    assert_eq!(bed.text_of(lease).await, "wrote b.txt");
    for file in ["a.txt", "b.txt"] {
        assert_eq!(fs::read_to_string(shared.path().join(file)).unwrap(), "x".repeat(10), "written once");
    }
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
}

#[tokio::test]
async fn rules_decide_without_a_person_and_what_is_denied_is_told_why() {
    let rules = vec![
        rule("Write", Some("secret/**"), None, RulePermission::Deny),
        rule("Write", None, None, RulePermission::Allow),
        rule("Bash", None, Some("git *"), RulePermission::Allow),
    ];
    let mut bed = Bed::new(coding(|spec| spec.policy = Policy { rules, ..Policy::default() }));
    bed.connector.start().await.unwrap();
    let expected = [
        ("write a.txt", "wrote a.txt"),
        ("write secret/a", "denied: denied by rule 0 of the agent's policy"),
        ("run git status", "allow"),
    ];
    for (text, result) in expected {
        let lease = bed.lease();
        bed.connector.run(prompt(lease, text)).await;
        assert_eq!(bed.text_of(lease).await, result);
    }
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "run git status; curl example.org")).await;
    assert_eq!(asks(&mut bed).await.lease, lease, "every command of a line must be allowed");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn an_interrupted_turn_waits_for_a_message_and_goes_on_with_it() {
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "say one\nwait")).await;
    does(&bed, lease, |what| matches!(what, What::Said { text } if text == "one")).await;
    bed.connector.tell(lease, Told::Interrupt { id: "i".into(), by: "ann".into() }).await.unwrap();
    does(&bed, lease, |what| matches!(what, What::TurnEnded { .. })).await;
    let twice = bed.connector.tell(lease, Told::Interrupt { id: "j".into(), by: "ann".into() }).await.unwrap_err();
    assert!(twice.contains("waits already"), "{twice}");
    for _ in 0..2 {
        // Said again by somebody who did not hear that it was done.
        let said = Told::Message { id: "0190-m".into(), text: "write two".into(), by: "ann".into() };
        bed.connector.tell(lease, said).await.unwrap();
    }
    let ask = asks(&mut bed).await;
    bed.connector.tell(lease, allow(ask.approval)).await.unwrap();
    assert_eq!(bed.text_of(lease).await, "wrote two");
    assert_eq!(transcript(&bed, lease).matches("ann says: write two").count(), 1);
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

fn git(dir: &Path, args: &[&str]) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
    let done = std::process::Command::new("git").arg("-C").arg(dir).args(identity).args(args).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test]
async fn a_worktree_that_grows_beyond_its_bound_stops_its_attempt_and_others_go_on() {
    let repository = tempfile::tempdir().unwrap();
    git(repository.path(), &["init", "-q"]);
    git(repository.path(), &["commit", "-q", "--allow-empty", "-m", "begin"]);
    let worktree = WorktreeSpec {
        repository: repository.path().to_owned(),
        base: None,
        must_change: false,
        set_up: None,
        tear_down: None,
        bytes_max: Some(4 << 20),
    };
    let mut bed = Bed::new(coding(|spec| spec.workspace = WorkspaceSpec::Worktree(worktree.clone())));
    bed.connector.start().await.unwrap();
    let (large, small) = (bed.lease(), bed.lease());
    bed.connector.run(prompt(large, "fill 8\nwait")).await;
    bed.connector.run(prompt(small, "fill 1\nwait")).await;
    let outcome = bed.end_of(large).await;
    assert_eq!(outcome.end, End::Failed, "{outcome:?}");
    let why = outcome.error.unwrap();
    assert!(why.contains("its workspace took 8") && why.contains("more than 4194304"), "{why}");
    does(&bed, small, |what| matches!(what, What::Heard { .. })).await;
    bed.connector.tell(small, Told::Interrupt { id: "i".into(), by: "ann".into() }).await.unwrap();
    bed.connector.tell(small, Told::Message { id: "m".into(), text: "say done".into(), by: "ann".into() }).await.unwrap();
    assert_eq!(bed.end_of(small).await.end, End::Succeeded);
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

/// The screen of whoever attaches to what a person has taken over.
async fn terminal(bed: &Bed, lease: Lease) -> Attached {
    let attached = async {
        loop {
            if let Ok(attached) = session::attach(last_terminal_dir(bed.data(), lease), 8 << 10).await {
                return attached;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), attached).await.expect("a terminal")
}

async fn shows(attached: &mut Attached, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let bytes = attached.reader.next().await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes.unwrap_or_else(|| panic!("it ended after {seen:?}"))));
    }
}

fn take_over(id: &str) -> Told {
    Told::TakeOver { id: id.into(), by: "ann".into() }
}

fn give_back(message: Option<&str>) -> Told {
    Told::GiveBack { id: "g".into(), by: "ann".into(), message: message.map(Into::into) }
}

#[tokio::test]
async fn a_person_takes_a_conversation_over_at_its_terminal_and_gives_it_back_across_lives() {
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    let job = || prompt(lease, "write a.txt");
    bed.connector.run(job()).await;
    let ask = asks(&mut bed).await;
    let nobody = bed.connector.tell(lease, give_back(None)).await.unwrap_err();
    assert!(nobody.contains("nobody has taken it over"), "{nobody}");
    bed.connector.tell(lease, take_over("t")).await.unwrap();
    bed.look("what it asked is withdrawn", |report| match report {
        Report::Withdrawn { approval } if *approval == ask.approval => Some(()),
        _ => None,
    })
    .await;
    let mut attached = terminal(&bed, lease).await;
    shows(&mut attached, "at the terminal of").await;
    attached.writer.write(b"do one\r").await.unwrap();
    shows(&mut attached, "did one").await;
    let twice = bed.connector.tell(lease, take_over("u")).await.unwrap_err();
    assert!(twice.contains("ann has taken it over"), "{twice}");
    // The node dies and comes back: the terminal is the same.
    let before = bed.processes();
    bed.connector.release().await;
    bed.next_life();
    bed.connector.start().await.unwrap();
    bed.connector.run(job()).await;
    attached.writer.write(b"do two\r").await.unwrap();
    shows(&mut attached, "did two").await;
    assert_eq!(bed.processes(), before, "it is the same process");
    bed.connector.tell(lease, give_back(Some("say and be quick"))).await.unwrap();
    assert_eq!(bed.text_of(lease).await, "and be quick");
    let text = transcript(&bed, lease);
    let said = ["taken over by ann", "given back by ann", "since then: one, two", "ann says: say and be quick"];
    assert!(said.iter().all(|said| text.contains(said)), "{text}");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_terminal_that_is_left_gives_the_conversation_back_and_a_cancelled_one_ends_the_attempt() {
    let mut bed = Bed::new(coding(|spec| spec.resumes_max = 0));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "say one\nwait")).await;
    does(&bed, lease, |what| matches!(what, What::Said { text } if text == "one")).await;
    bed.connector.tell(lease, take_over("t")).await.unwrap();
    let mut attached = terminal(&bed, lease).await;
    attached.writer.write(b"exit\r").await.unwrap();
    shows(&mut attached, "exit").await;
    assert_eq!(bed.text_of(lease).await, "since then: ", "that a person came is no death of its program");
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "say one\nwait")).await;
    does(&bed, lease, |what| matches!(what, What::Said { text } if text == "one")).await;
    bed.connector.tell(lease, take_over("t")).await.unwrap();
    terminal(&bed, lease).await;
    bed.connector.cancel(lease, AT_ONCE).await;
    assert_eq!(bed.end_of(lease).await.end, End::Cancelled);
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_message_during_a_turn_is_dealt_with_before_the_attempt_ends() {
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "write a.txt")).await;
    let ask = asks(&mut bed).await;
    let said = Told::Message { id: "0190-m".into(), text: "say and this too".into(), by: "ann".into() };
    bed.connector.tell(lease, said).await.unwrap();
    bed.connector.tell(lease, allow(ask.approval)).await.unwrap();
    assert_eq!(bed.text_of(lease).await, "and this too");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
}

#[tokio::test]
async fn a_program_that_dies_goes_on_with_its_conversation_and_one_that_always_dies_is_given_up() {
    let mut bed = Bed::new(coding(|spec| spec.resumes_max = 2));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "say before\ndie")).await;
    assert_eq!(bed.text_of(lease).await, "resumed");
    let text = transcript(&bed, lease);
    assert!(text.contains("before\n") && text.contains("begun again: signal 9"), "{text}");
    bed.agent.env.push(EnvVar { name: "SPEAKS_ONLY".into(), value: "exit 3".into() });
    bed.next_life();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "say hello")).await;
    let outcome = bed.end_of(lease).await;
    let error = outcome.error.as_deref().unwrap_or_default();
    assert_eq!(error, "its program ended 3 times before it was done; the last time: exit status 3: out of cheese");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_program_that_cannot_be_used_is_explained_before_it_gets_work() {
    let missing = CodingSpec::new(vec!["no-such-agent".into()]);
    let bed = Bed::new(ConnectorSpec::ClaudeCode(Arc::new(missing)));
    let failure = bed.connector.start().await.unwrap_err();
    assert!(failure.message.contains("no-such-agent") && failure.message.contains("npm install"), "{}", failure.message);
    let old = tempfile::tempdir().unwrap();
    let program = old.path().join("claude");
    fs::write(&program, "#!/bin/sh\necho '1.0.3 (Claude Code)'\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let spec = CodingSpec::new(vec![program.display().to_string()]);
    let bed = Bed::new(ConnectorSpec::ClaudeCode(Arc::new(spec)));
    let failure = bed.connector.start().await.unwrap_err();
    assert!(failure.message.contains("1.0.3") && failure.message.contains("too old"), "{}", failure.message);
}

#[tokio::test]
async fn hostile_output_fails_the_attempt_with_a_reason() {
    let expected = [
        (r#"raw "{\"type\":\"assistant\"""#, "broke the protocol"),
        (r#"raw "{\"type\":\"control_request\"}""#, "broke the protocol"),
        (r#"raw "{\"type\":\"result\",\"subtype\":7}""#, "broke the protocol"),
        ("huge 20", "a line of more than"),
        ("flood", "more than an attempt may"),
    ];
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    for (text, why) in expected {
        let lease = bed.lease();
        bed.connector.run(prompt(lease, text)).await;
        let outcome = bed.end_of(lease).await;
        assert_eq!(outcome.end, End::Failed, "{text}: {outcome:?}");
        assert!(outcome.error.as_ref().unwrap().contains(why), "{text}: {outcome:?}");
        // Nobody listens to it any more.
        bed.nothing_left();
    }
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
}

#[tokio::test]
async fn one_that_does_the_same_again_and_again_is_nudged_once_and_then_stopped() {
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "loop")).await;
    // Its nudge interrupts it, and then it gets on.
    assert_eq!(bed.text_of(lease).await, "nudged");
    assert!(transcript(&bed, lease).contains("nudged: it did the same 5 times"));
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn one_that_says_nothing_is_nudged_once_and_then_stopped() {
    // Long enough for the program to begin on a busy machine.
    let mut bed = Bed::new(coding(|spec| spec.quiet_ms = 4_000));
    bed.connector.start().await.unwrap();
    let (heeds, deaf) = (bed.lease(), bed.lease());
    bed.connector.run(prompt(heeds, "wait")).await;
    bed.connector.run(prompt(deaf, "raw \"\"")).await;
    assert_eq!(bed.text_of(heeds).await, "nudged");
    let outcome = bed.end_of(deaf).await;
    let error = outcome.error.as_deref().unwrap_or_default();
    assert_eq!(error, "it was stuck and stopped after a nudge: there was no word of it for 4 s");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn an_answer_in_json_is_the_result_and_any_other_is_a_failure() {
    let mut bed = Bed::new(coding(|spec| spec.answer = AnswerKind::Json));
    bed.connector.start().await.unwrap();
    let (good, bad) = (bed.lease(), bed.lease());
    bed.connector.run(prompt(good, r#"say Here: {"tasks": [1, 2]}"#)).await;
    assert_eq!(bed.end_of(good).await.result.as_deref(), Some(&br#"{"tasks":[1,2]}"#[..]));
    bed.connector.run(prompt(bad, "say I will do it")).await;
    let outcome = bed.end_of(bad).await;
    assert!(outcome.error.as_ref().unwrap().contains("no JSON: I will do it"), "{outcome:?}");
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
}

#[tokio::test]
async fn a_cancelled_attempt_ends_its_program_and_one_past_its_time_is_timed_out() {
    let mut bed = Bed::new(coding(|_| {}));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(prompt(lease, "write a.txt")).await;
    asks(&mut bed).await;
    bed.connector.cancel(lease, StopHow::Gracefully { grace: Duration::from_millis(200) }).await;
    assert_eq!(bed.end_of(lease).await.end, End::Cancelled);
    let lease = bed.lease();
    let job = Job { run_timeout: Some(Duration::from_millis(600)), ..prompt(lease, "wait") };
    bed.connector.run(job).await;
    assert_eq!(bed.end_of(lease).await.end, End::TimedOut);
    assert!(!work(&bed, lease, "").exists(), "its fresh directory is gone");
    bed.nothing_left();
}
