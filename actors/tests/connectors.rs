//! The conformance suite that every connector must pass, then what each promises besides. Real processes throughout.

mod support;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use bytes::Bytes;
use hiveward_agents::connector::{Connector, End, Input, Job, Outcome, Report, StopHow, StopWhy, forget, session_dir};
use hiveward_catalogue::agent::spec::{ConnectorSpec, EnvVar, Limits};
use hiveward_kernel::lease::Lease;
use hiveward_work::task::{gate::GateSpec, spec::CommandSpec, status::TaskStatus};

use support::{agent::*, *};

const AT_ONCE: StopHow = StopHow::AtOnce;

type MakeJob = fn(Lease) -> Job;

fn every_connector() -> Vec<(ConnectorSpec, MakeJob)> {
    vec![
        (ConnectorSpec::Command, |lease| command(lease, "echo hi")),
        (python_worker(), |lease| kind(lease, "echo", "1")),
        (ConnectorSpec::Noop, |lease| kind(lease, "echo", "1")),
    ]
}

#[tokio::test]
async fn every_connector_runs_jobs_each_with_one_start_and_one_end() {
    for (spec, job) in every_connector() {
        let mut bed = Bed::new(spec);
        bed.connector.start().await.unwrap();
        let leases: Vec<Lease> = (0..4).map(|_| bed.lease()).collect();
        for lease in &leases {
            let job = job(*lease);
            bed.connector.run(job.clone()).await;
            if !matches!(bed.agent.connector, ConnectorSpec::Noop) {
                bed.connector.run(job).await;
            }
        }
        for lease in &leases {
            assert_eq!(bed.end_of(*lease).await.end, End::Succeeded, "{:?}", bed.agent.connector);
        }
        bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
        for lease in &leases {
            let (starts, ends) = bed.counts(*lease);
            assert_eq!((starts, ends), (1, 1), "{:?}", bed.agent.connector);
        }
        bed.nothing_left();
    }
}

#[tokio::test]
async fn every_connector_leaves_nothing_running_after_a_stop() {
    for how in [AT_ONCE, StopHow::Gracefully { grace: Duration::from_millis(100) }] {
        for (spec, slow) in [
            (ConnectorSpec::Command, command as fn(Lease, &str) -> _),
            (python_worker(), |lease, _| kind(lease, "count", r#"{"upto":100000}"#)),
        ] {
            let mut bed = Bed::new(spec);
            bed.connector.start().await.unwrap();
            let lease = bed.lease();
            bed.connector.run(slow(lease, "trap '' INT TERM; setsid sleep 1000 & sleep 1000")).await;
            bed.started(lease).await;
            bed.connector.stop(how, StopWhy::AgentStopped).await;
            assert!(bed.processes().is_empty());
            let outcome = bed.end_of(lease).await;
            assert_eq!((outcome.end, outcome.retriable), (End::Lost, true), "nobody cancelled it");
            bed.nothing_left();
        }
    }
}

#[tokio::test]
async fn every_connector_cancels_a_running_job() {
    for (spec, job) in [
        (ConnectorSpec::Command, command as fn(Lease, &str) -> _),
        (python_worker(), |lease, _| kind(lease, "count", r#"{"upto":100000}"#)),
    ] {
        let mut bed = Bed::new(spec);
        bed.connector.start().await.unwrap();
        let lease = bed.lease();
        bed.connector.run(job(lease, "sleep 1000")).await;
        bed.started(lease).await;
        bed.connector.cancel(lease, StopHow::Gracefully { grace: Duration::from_secs(20) }).await;
        assert_eq!(bed.end_of(lease).await.end, End::Cancelled);
        bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
        bed.nothing_left();
    }
}

#[tokio::test]
async fn every_connector_ends_a_job_at_its_run_timeout() {
    for (spec, job) in [
        (ConnectorSpec::Command, command as fn(Lease, &str) -> _),
        (python_worker(), |lease, _| kind(lease, "count", r#"{"upto":100000}"#)),
    ] {
        let mut bed = Bed::new(spec);
        bed.connector.start().await.unwrap();
        let lease = bed.lease();
        let mut job = job(lease, "sleep 1000");
        job.run_timeout = Some(Duration::from_millis(100));
        bed.connector.run(job).await;
        let outcome = bed.end_of(lease).await;
        assert_eq!((outcome.end, outcome.retriable), (End::TimedOut, true));
        bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
        bed.nothing_left();
    }
}

#[tokio::test]
async fn every_connector_goes_on_where_an_earlier_life_let_go() {
    for (spec, job) in [
        (ConnectorSpec::Command, command as fn(Lease, &str) -> _),
        (python_worker(), |lease, _| kind(lease, "count", r#"{"upto":30}"#)),
    ] {
        let mut bed = Bed::new(spec);
        bed.connector.start().await.unwrap();
        let lease = bed.lease();
        let job = job(
            lease,
            r#"echo x >> "$PLACE/runs"; sleep 0.3; echo data > f; echo '{"hiveward":"artifact","name":"f","path":"f"}'; echo '{"hiveward":"result","value":30}'"#,
        );
        bed.connector.run(job.clone()).await;
        bed.started(lease).await;
        bed.connector.release().await;
        for _ in 0..3 {
            bed.next_life();
            bed.connector.start().await.unwrap();
            bed.connector.run(job.clone()).await;
            let outcome = bed.end_of(lease).await;
            assert_eq!((outcome.end, outcome.result.as_deref()), (End::Succeeded, Some(&b"30"[..])), "{outcome:?}");
            // The same again, from the record: no second run.
        }
        if let Ok(runs) = fs::read_to_string(bed.root().join("runs")) {
            assert_eq!(runs, "x\n");
        }
        bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
        bed.nothing_left();
    }
}

#[tokio::test]
async fn every_connector_freezes_and_thaws() {
    for (spec, job) in [
        (ConnectorSpec::Command, command as fn(Lease, &str) -> _),
        (python_worker(), |lease, _| kind(lease, "count", r#"{"upto":100000}"#)),
    ] {
        let mut bed = Bed::new(spec);
        bed.connector.start().await.unwrap();
        let lease = bed.lease();
        bed.connector.run(job(lease, r#"while :; do echo '{"hiveward":"progress","percent":1}'; sleep 0.01; done"#)).await;
        bed.progress(lease).await;
        bed.connector.freeze(true).await.unwrap();
        let quiet = wait_until_steady(|| bed.output_bytes()).await;
        bed.connector.freeze(false).await.unwrap();
        wait_for("more output", || bed.output_bytes() > quiet).await;
        bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
        bed.nothing_left();
    }
}

#[tokio::test]
async fn a_gate_decides_over_success() {
    for (spec, job) in [
        (ConnectorSpec::Command, command as fn(Lease, &str) -> _),
        (python_worker(), |lease, _| kind(lease, "sum", r#"{"numbers":[40,2]}"#)),
    ] {
        let mut bed = Bed::new(spec);
        bed.connector.start().await.unwrap();
        for (check, end) in
            [("test \"$(cat)\" = 42", End::Succeeded), ("echo nope >&2; exit 4", End::Failed), ("sleep 100", End::Failed)]
        {
            let lease = bed.lease();
            let mut job = job(lease, r#"echo '{"hiveward":"result","value":42}'"#);
            job.gate = Some(GateSpec { name: "answer".into(), command: shell(check), timeout_ms: 500, retriable: true });
            bed.connector.run(job).await;
            let outcome = bed.end_of(lease).await;
            assert_eq!(outcome.end, end, "{outcome:?}");
            assert!(bed.reports.iter().any(|report| matches!(report, Report::Verifying { lease: of } if *of == lease)));
            if end == End::Failed {
                let error = outcome.error.unwrap();
                assert!(
                    error.starts_with("gate answer did not pass: ")
                        && (error.contains("exit status 4: nope") || error.contains("timeout")),
                    "{error}"
                );
                assert!(outcome.retriable);
            }
        }
        bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
        bed.nothing_left();
    }
}

#[tokio::test]
async fn a_command_gets_its_payload_inputs_and_environment_and_nothing_else() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let (lease, input) = (bed.lease(), bed.lease().task);
    let mut job = command(
        lease,
        r#"cat; cat "$HIVEWARD_INPUTS"; pwd; env | sed 's/=.*//' | sort | tr '\n' ' '; echo; echo $HIVEWARD_TASK/$HIVEWARD_ATTEMPT"#,
    );
    if let hiveward_agents::connector::What::Command { stdin, .. } = &mut job.what {
        *stdin = Some(Bytes::from_static(b"payload\n"));
    }
    job.inputs = vec![
        Input {
            task: input,
            title: "before".into(),
            status: TaskStatus::Succeeded,
            result: Some(Bytes::from_static(b"{\"a\":1}")),
        },
        Input { task: input, title: "big".into(), status: TaskStatus::Succeeded, result: Some(vec![b'x'; 100_000].into()) },
    ];
    bed.connector.run(job).await;
    let text = bed.text_of(lease).await;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("payload"));
    let (inputs, rest) = text.split_once('\n').unwrap().1.split_once(']').unwrap();
    let inputs: serde_json::Value = serde_json::from_str(&format!("{inputs}]")).unwrap();
    assert_eq!(inputs[0], serde_json::json!({"task": input, "title": "before", "status": "SUCCEEDED", "result": {"a": 1}}));
    assert_eq!(fs::metadata(inputs[1]["result"]["path"].as_str().unwrap()).unwrap().len(), 100_000);
    let mut rest = rest.lines();
    assert!(rest.next().unwrap().ends_with("/work"));
    let names: Vec<&str> = rest
        .next()
        .unwrap()
        .split_whitespace()
        .filter(|name| !["LANG", "TERM", "_", "SHLVL", "OLDPWD", "PWD"].contains(name))
        .collect();
    assert_eq!(
        names,
        [
            "HIVEWARD_AGENT",
            "HIVEWARD_ATTEMPT",
            "HIVEWARD_INPUTS",
            "HIVEWARD_PAYLOAD",
            "HIVEWARD_SESSION",
            "HIVEWARD_TASK",
            "HIVEWARD_WORKDIR",
            "HOME",
            "PATH",
            "PLACE"
        ]
    );
    assert_eq!(rest.next(), Some(format!("{}/{}", lease.task, lease.attempt).as_str()));
    bed.nothing_left();
}

#[tokio::test]
async fn a_command_speaks_of_progress_results_artifacts_and_failures() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let lease = bed.lease();
    let script = r#"echo '{"hiveward":"progress","percent":40,"message":"half"}'; echo plain; echo data > report.json
        echo '{"hiveward":"artifact","name":"report.json","path":"report.json"}'; echo '{"hiveward":"result","value":{"b":[1]}}'"#;
    bed.connector.run(command(lease, script)).await;
    let outcome = bed.end_of(lease).await;
    assert_eq!(outcome.result.as_deref(), Some(&br#"{"b":[1]}"#[..]));
    assert_eq!((outcome.artifacts.len(), outcome.artifacts[0].name.as_str(), outcome.artifacts[0].bytes), (1, "report.json", 5));
    assert!(
        bed.reports
            .iter()
            .any(|report| matches!(report, Report::Progress { percent: Some(40.0), message: Some(m), .. } if m == "half"))
    );

    for (script, end, retriable, wanted) in [
        (r#"echo '{"hiveward":"fail","retriable":false,"message":"bad input"}'"#, End::Failed, false, "bad input"),
        ("echo cause >&2; exit 3", End::Failed, true, "exit status 3: cause"),
        ("kill -SEGV $$", End::Failed, true, "signal 11 (SIGSEGV)"),
        (
            r#"echo '{"hiveward":"artifact","name":"p","path":"/etc/passwd"}'"#,
            End::Failed,
            true,
            "no file inside the working directory",
        ),
        (
            r#"ln -s /etc/passwd p; echo '{"hiveward":"artifact","name":"p","path":"p"}'"#,
            End::Failed,
            true,
            "no file inside the working directory",
        ),
    ] {
        let lease = bed.lease();
        bed.connector.run(command(lease, script)).await;
        let outcome = bed.end_of(lease).await;
        assert_eq!((outcome.end, outcome.retriable), (end, retriable), "{script}");
        assert!(outcome.error.as_ref().unwrap().contains(wanted), "{script}: {outcome:?}");
    }
    bed.nothing_left();
}

#[tokio::test]
async fn output_that_is_no_result_becomes_an_artifact_and_is_said() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    for (script, why, bytes) in [("head -c 3000000 /dev/zero", "over 1 MiB", 3_000_000), (r"printf '\377\000'", "not UTF-8", 2)] {
        let lease = bed.lease();
        bed.connector.run(command(lease, script)).await;
        let outcome = bed.end_of(lease).await;
        assert_eq!((outcome.end, outcome.result), (End::Succeeded, None));
        assert_eq!((outcome.artifacts[0].name.as_str(), outcome.artifacts[0].bytes), ("stdout", bytes));
        assert!(bed.reports.iter().any(|report| matches!(report, Report::Progress { message: Some(m), .. } if m.contains(why))));
    }
    let lease = bed.lease();
    bed.connector.run(command(lease, "true")).await;
    assert_eq!(bed.end_of(lease).await.result, None);
    bed.nothing_left();
}

#[tokio::test]
async fn a_missing_program_or_secret_is_a_failure_that_no_retry_mends() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    for (program, env, wanted) in [
        ("no-such-program", None, "no-such-program was not found in PATH"),
        ("true", Some("secret:NONE"), "there is no secret NONE"),
    ] {
        let lease = bed.lease();
        let mut job = command(lease, "");
        if let hiveward_agents::connector::What::Command { command, .. } = &mut job.what {
            *command = CommandSpec {
                argv: vec![program.into()],
                env: env.map(|value| ("X".into(), value.into())).into_iter().collect(),
                ..CommandSpec::default()
            };
        }
        bed.connector.run(job).await;
        let outcome = bed.end_of(lease).await;
        assert_eq!((outcome.end, outcome.retriable), (End::Failed, false));
        assert!(outcome.error.as_ref().unwrap().contains(wanted), "{outcome:?}");
    }
    bed.nothing_left();
}

#[tokio::test]
async fn a_secret_reaches_the_program_and_nothing_else() {
    let canary = format!("canary-{}", std::process::id());
    let mut bed = Bed::new(ConnectorSpec::Command);
    fs::create_dir_all(bed.data().join("secrets")).unwrap();
    let file = bed.data().join("secrets/TOKEN");
    fs::write(&file, format!("{canary}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    bed.agent.env.push(EnvVar { name: "TOKEN".into(), value: "secret:TOKEN".into() });
    bed.next_life();
    let lease = bed.lease();
    bed.connector.run(command(lease, "test ${#TOKEN} -gt 8 && echo has it; echo failed with $TOKEN >&2; exit 1")).await;
    let outcome = bed.end_of(lease).await;
    assert!(!format!("{:?}", bed.reports).contains(&canary));
    assert!(outcome.error.unwrap().contains("failed with ***"));
    assert_eq!(fs::read_to_string(session_dir(bed.data(), lease).join("stdout")).unwrap(), "has it\n");
    // The program's own output is its own affair; nothing that we wrote has it.
    for file in files_under(bed.data()) {
        let own = file.ends_with("secrets/TOKEN") || file.ends_with("stderr");
        assert!(own || !contains(&fs::read(&file).unwrap_or_default(), canary.as_bytes()), "{file:?}");
    }
    bed.nothing_left();
}

#[tokio::test]
async fn a_gate_that_runs_is_adopted_too() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let lease = bed.lease();
    let mut job = command(lease, r#"echo w >> "$PLACE/works""#);
    let gate = shell(r#"echo g >> "$PLACE/gates"; while [ ! -e "$PLACE/go" ]; do sleep 0.01; done"#);
    job.gate = Some(GateSpec { name: "slow".into(), command: gate, timeout_ms: 30_000, retriable: true });
    bed.connector.run(job.clone()).await;
    wait_for("the gate", || bed.root().join("gates").exists()).await;
    bed.connector.release().await;
    bed.next_life();
    bed.connector.run(job).await;
    fs::write(bed.root().join("go"), "").unwrap();
    assert_eq!(bed.end_of(lease).await.end, End::Succeeded);
    let read = |name| fs::read_to_string(bed.root().join(name)).unwrap();
    assert_eq!((read("works").as_str(), read("gates").as_str()), ("w\n", "g\n"));
    bed.nothing_left();
}

#[tokio::test]
async fn an_attempt_whose_shim_was_killed_is_lost_and_leaves_nothing() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let lease = bed.lease();
    bed.connector.run(command(lease, "setsid sleep 1000 & sleep 1000")).await;
    bed.started(lease).await;
    for shim in shims_under(bed.root()) {
        kill_9(shim);
    }
    let outcome = bed.end_of(lease).await;
    assert_eq!((outcome.end, outcome.retriable), (End::Lost, true));
    wait_for("its processes to go", || bed.processes().is_empty()).await;
    forget(bed.data(), lease).unwrap();
    assert!(!session_dir(bed.data(), lease).exists());
}

#[tokio::test]
async fn a_stop_also_ends_what_only_an_earlier_life_knew() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let lease = bed.lease();
    bed.connector.run(command(lease, "sleep 1000")).await;
    bed.started(lease).await;
    assert!(forget(bed.data(), lease).is_err());
    bed.connector.release().await;
    bed.next_life();
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_kill_for_memory_is_said_to_be_one() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    bed.agent.limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    bed.next_life();
    let lease = bed.lease();
    bed.connector.run(command(lease, "exec python3 -c 'x=[]\nwhile True: x.append(bytearray(1<<20))'")).await;
    assert!(bed.end_of(lease).await.error.unwrap().contains("killed for memory"));
    bed.nothing_left();
}

#[tokio::test]
async fn a_worker_does_tasks_reports_progress_and_continues_from_a_checkpoint() {
    let mut bed = Bed::new(python_worker());
    bed.connector.start().await.unwrap();
    let (sum, bad) = (bed.lease(), bed.lease());
    bed.connector.run(kind(sum, "sum", r#"{"numbers":[1,2,3]}"#)).await;
    bed.connector.run(kind(bad, "nonsense", "{}")).await;
    assert_eq!(bed.end_of(sum).await.result.as_deref(), Some(&b"6"[..]));
    let outcome = bed.end_of(bad).await;
    assert_eq!((outcome.end, outcome.retriable, outcome.error.as_deref()), (End::Failed, false, Some("unknown kind nonsense")));

    let first = bed.lease();
    bed.connector.run(kind(first, "count", r#"{"upto":100000}"#)).await;
    let checkpoint = bed.data().join(format!("checkpoints/{}.json", first.task));
    wait_for("a checkpoint", || fs::read_to_string(&checkpoint).is_ok_and(|text| text.contains("3"))).await;
    bed.connector.cancel(first, StopHow::Gracefully { grace: Duration::from_secs(20) }).await;
    bed.end_of(first).await;
    let done: serde_json::Value = serde_json::from_slice(&fs::read(&checkpoint).unwrap()).unwrap();
    let upto = done["done"].as_u64().unwrap() + 3;
    let second = Lease { attempt: 2, ..first };
    bed.connector.run(kind(second, "count", &format!("{{\"upto\":{upto}}}"))).await;
    assert_eq!(bed.end_of(second).await.end, End::Succeeded);
    let again: Vec<f32> = bed
        .reports
        .iter()
        .filter_map(|report| {
            if let Report::Progress { lease, percent, .. } = report {
                (*lease == second).then_some(percent.unwrap())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(again.len(), 3);
    bed.connector.stop(StopHow::Gracefully { grace: Duration::from_secs(20) }, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn the_record_of_what_a_worker_was_given_stays_short_however_long_it_lives() {
    const TASKS: usize = 600;
    let mut bed = Bed::new(python_worker());
    bed.connector.start().await.unwrap();
    for _ in 0..TASKS {
        let lease = bed.lease();
        bed.connector.run(kind(lease, "sum", r#"{"numbers":[1,2]}"#)).await;
        assert_eq!(bed.end_of(lease).await.end, End::Succeeded);
    }
    let accepted = files_under(&bed.data().join("sessions")).into_iter().find(|file| file.ends_with("accepted")).unwrap();
    wait_for("the record to be short", || fs::read_to_string(&accepted).unwrap().lines().count() <= TASKS - 512).await;
    bed.connector.stop(StopHow::AtOnce, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_large_payload_reaches_a_worker_by_path() {
    let mut bed = Bed::new(worker(
        r#"
        python3 -uc 'import json,sys
print(json.dumps({"type":"ready"}))
for line in sys.stdin:
    m=json.loads(line)
    if m["type"]=="task": print(json.dumps({"type":"result","task":m["task"],"value":[len(open(m["payload_path"]).read()), len(open(m["inputs"]["path"]).read()) > 1000000]}))'"#,
    ));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    let mut job = kind(lease, "x", &format!("\"{}\"", "y".repeat(2_000_000)));
    job.inputs =
        vec![
            Input { task: lease.task, title: "t".into(), status: TaskStatus::Succeeded, result: Some(vec![b'z'; 60_000].into()) };
            30
        ];
    bed.connector.run(job).await;
    assert_eq!(bed.end_of(lease).await.result.as_deref(), Some(&b"[2000002,true]"[..]));
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_fails_with_its_jobs_and_a_clear_message() {
    for (prints, wanted) in
        [(r#"{"type":"nonsense"}"#, "not in the protocol"), (r#"{broken"#, "no JSON"), (r"\377\376", "not UTF-8")]
    {
        let mut bed = Bed::new(worker(&format!(
            r#"echo '{{"type":"ready"}}'; echo plain text; read line; printf '{prints}\n'; sleep 1000"#
        )));
        bed.connector.start().await.unwrap();
        let lease = bed.lease();
        bed.connector.run(kind(lease, "x", "1")).await;
        let outcome = bed.end_of(lease).await;
        assert_eq!((outcome.end, outcome.retriable), (End::Failed, true));
        assert!(outcome.error.as_ref().unwrap().contains(wanted), "{outcome:?}");
        assert!(bed.died().await.contains(wanted));
        bed.nothing_left();
    }
}

#[tokio::test]
async fn a_gibibyte_on_one_line_costs_a_worker_its_life_and_us_no_memory() {
    let mut bed = Bed::new(worker(r#"echo '{"type":"ready"}'; read line; head -c 1073741824 /dev/zero | tr '\0' x; sleep 1000"#));
    bed.connector.start().await.unwrap();
    let before = own_rss_bytes();
    let lease = bed.lease();
    bed.connector.run(kind(lease, "x", "1")).await;
    let outcome = bed.end_of(lease).await;
    assert!(outcome.error.unwrap().contains("a line of more than 1048576 bytes"));
    let grown = own_rss_bytes().saturating_sub(before);
    println!("grown by {} KiB", grown / 1024);
    assert!(grown < 16 << 20, "{grown}");
    bed.died().await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_worker_that_dies_or_goes_silent_is_noticed() {
    for (script, wanted) in [
        (r#"echo '{"type":"ready"}'; read line; echo why >&2; exit 9"#, "exit status 9"),
        (r#"echo '{"type":"ready","heartbeat_ms":20}'; read line; sleep 1000"#, "silent for 60 ms"),
    ] {
        let mut bed = Bed::new(worker(script));
        bed.connector.start().await.unwrap();
        let lease = bed.lease();
        bed.connector.run(kind(lease, "x", "1")).await;
        let outcome = bed.end_of(lease).await;
        assert_eq!((outcome.end, outcome.retriable), (End::Failed, true));
        assert!(outcome.error.as_ref().unwrap().contains(wanted), "{outcome:?}");
        assert!(bed.died().await.contains(wanted));
        bed.nothing_left();
    }
}

#[tokio::test]
async fn a_worker_that_does_not_get_ready_fails_to_start_with_its_output() {
    for (script, wanted, output) in [
        ("echo hello; sleep 1000", "did not say that it is ready within 300 ms", "hello"),
        ("echo oops >&2; exit 2", "exit status 2", "oops"),
        ("exec /no/such/program", "exit status 127", "/no/such/program"),
    ] {
        let mut bed = Bed::new(worker(script));
        bed.agent.start_timeout_ms = 300;
        bed.next_life();
        let failure = bed.connector.start().await.unwrap_err();
        assert!(failure.message.contains(wanted), "{failure:?}");
        assert!(failure.output_tail.contains(output), "{failure:?}");
        assert!(bed.reports_now().is_empty());
        bed.nothing_left();
    }
    let bed = Bed::new(ConnectorSpec::Worker { argv: vec!["no-such-worker".into()], cwd: None });
    assert!(bed.connector.start().await.unwrap_err().message.contains("no-such-worker was not found in PATH"));
}

#[tokio::test]
async fn a_worker_that_ended_unseen_still_has_its_last_results_counted() {
    let script = r#"echo '{"type":"ready"}'; read one; read two
        while [ ! -e "$PLACE/go" ]; do sleep 0.01; done
        echo "$one" | sed 's/.*"task":"\([^"]*\)".*/{"type":"result","task":"\1","value":7}/'; exit 0"#;
    let mut bed = Bed::new(worker(script));
    bed.connector.start().await.unwrap();
    let (one, two) = (bed.lease(), bed.lease());
    bed.connector.run(kind(one, "x", "1")).await;
    bed.started(one).await;
    bed.connector.run(kind(two, "x", "1")).await;
    bed.started(two).await;
    bed.connector.release().await;
    fs::write(bed.root().join("go"), "").unwrap();
    wait_for("its end", || bed.processes().is_empty()).await;
    bed.next_life();
    bed.connector.start().await.unwrap();
    bed.connector.run(kind(one, "x", "1")).await;
    bed.connector.run(kind(two, "x", "1")).await;
    assert_eq!(bed.end_of(one).await.result.as_deref(), Some(&b"7"[..]));
    let lost: Outcome = bed.end_of(two).await;
    assert_eq!((lost.end, lost.retriable), (End::Failed, true));
    assert!(lost.error.unwrap().contains("ended while it had the task"));
    bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
    bed.nothing_left();
}

#[tokio::test]
async fn a_worker_that_ignores_a_cancel_is_killed_if_it_has_nothing_else() {
    let mut bed = Bed::new(worker(r#"trap '' INT TERM; echo '{"type":"ready"}'; while :; do sleep 0.05; done"#));
    bed.connector.start().await.unwrap();
    let lease = bed.lease();
    bed.connector.run(kind(lease, "x", "1")).await;
    bed.started(lease).await;
    bed.connector.cancel(lease, StopHow::Gracefully { grace: Duration::from_millis(50) }).await;
    assert_eq!(bed.end_of(lease).await.end, End::Cancelled);
    assert!(bed.died().await.contains("did not give up"));
    bed.nothing_left();
}

#[tokio::test]
async fn noop_is_cheap() {
    let mut bed = Bed::new(ConnectorSpec::Noop);
    let connector: Arc<dyn Connector> = bed.connector.clone();
    let leases: Vec<Lease> = (0..20_000).map(|_| bed.lease()).collect();
    let begun = std::time::Instant::now();
    let runner = tokio::spawn(async move {
        for lease in leases {
            connector.run(kind(lease, "x", "1")).await;
        }
    });
    bed.drain(40_000).await;
    runner.await.unwrap();
    println!("noop: {:.0} jobs/s", 20_000.0 / begun.elapsed().as_secs_f64());
}

#[tokio::test]
#[ignore = "prints figures: how long a command takes from run to its end, and how many run in a second"]
async fn figures_of_command() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        let lease = bed.lease();
        bed.connector.run(command(lease, ":")).await;
        bed.end_of(lease).await;
    }
    println!("command: {:.2} ms one after the other", begun.elapsed().as_secs_f64() * 10.0);
    let begun = std::time::Instant::now();
    let leases: Vec<Lease> = (0..200).map(|_| bed.lease()).collect();
    for lease in &leases {
        bed.connector.run(command(*lease, ":")).await;
    }
    for lease in &leases {
        bed.end_of(*lease).await;
    }
    println!("command: {:.0} a second, 200 at once", 200.0 / begun.elapsed().as_secs_f64());
}
