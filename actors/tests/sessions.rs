//! What sessions promise, tried on real processes. Nothing that a test starts outlives it.

mod support;

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use hiveward_agents::session::{self, Adopted, Exit, LaunchError, Overflow, Stdin, Stream, transcript};
use hiveward_catalogue::agent::spec::{Limits, SessionSpec};
use hiveward_runtime::{clock::BootClock, cluster::lease::LeasePage};

use support::*;

#[tokio::test]
async fn output_of_both_streams_and_the_exit_status_are_kept() {
    let place = Place::new();
    let session = session::launch(place.sh("echo out; echo err >&2; exit 3")).await.unwrap();
    let exit = session.wait().await.unwrap();
    assert_eq!((exit.code, exit.signal), (Some(3), None));
    assert_eq!(place.text("stdout"), "out\n");
    assert_eq!(place.text("stderr"), "err\n");
    assert!(exit.rss_max_bytes > 0);
    place.nothing_left().await;
}

#[tokio::test]
async fn a_transcript_is_read_in_arrival_order_and_resumes_at_any_byte() {
    let place = Place::new();
    // Two pipes have no order between them but that of their arrival, so each line waits for the one before to be there.
    let script = "for i in 1 2 3 4 5; do echo out$i; until grep -q out$i $S/stdout; do :; done; echo err$i >&2; until grep -q err$i $S/stderr; do :; done; done";
    let script = format!("S={}; {script}", place.session.display());
    session::launch(place.sh(&script)).await.unwrap().wait().await.unwrap();
    let mut reader = transcript::Reader::open(&place.session).unwrap();
    let mut whole = Vec::new();
    for step in [1, 3, 1000] {
        whole.clear();
        let mut at = 0;
        loop {
            let chunk = reader.read(at, step).unwrap();
            whole.extend_from_slice(&chunk.bytes);
            at = chunk.next_byte;
            if chunk.at_end {
                break;
            }
        }
        let text: String = (1..=5).map(|i| format!("out{i}\nerr{i}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&whole), text, "in steps of {step}");
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn standard_input_reaches_the_process_and_its_end_too() {
    let place = Place::new();
    let mut launch = place.sh("wc -c; cat");
    launch.argv = vec!["cat".into()];
    launch.stdin = Stdin::Pipe;
    let session = session::launch(launch).await.unwrap();
    let line = vec![b'x'; 1 << 20];
    for _ in 0..5 {
        session.write_stdin(&line, "").await.unwrap();
    }
    session.close_stdin().await.unwrap();
    assert_eq!(session.wait().await.unwrap().code, Some(0));
    assert_eq!(fs::metadata(place.session.join("stdout")).unwrap().len(), 5 << 20);
    place.nothing_left().await;
}

#[tokio::test]
async fn a_program_that_cannot_run_is_named_with_where_it_was_looked_for() {
    let place = Place::new();
    for (argv, wanted) in [
        ("no-such-program", "program no-such-program was not found in PATH (/usr/bin:/bin)"),
        ("/no/such", "program /no/such does not exist"),
        ("/etc/passwd", "program /etc/passwd is not executable"),
    ] {
        let mut launch = place.sh("");
        launch.argv = vec![argv.into()];
        match session::launch(launch).await {
            Err(LaunchError::Program(message)) => assert!(message.contains(wanted), "{message}"),
            other => panic!("{other:?}"),
        }
        assert!(!place.session.exists());
    }
    let mut launch = place.sh("");
    launch.cwd = "/no/such/place".into();
    assert!(session::launch(launch).await.unwrap_err().to_string().contains("working directory /no/such/place"));
    place.nothing_left().await;
}

#[tokio::test]
async fn a_process_that_ignores_signals_forks_away_and_stops_itself_leaves_nothing() {
    let place = Place::new();
    let script = r#"
import os, signal, time
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
for again in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(os.environ["READY"] + str(again), "w").close()
            if again == 1: os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
        os._exit(0)
open(os.environ["READY"] + "3", "w").close()
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(1000)
"#;
    let mut launch = place.sh("");
    launch.argv = vec!["python3".into(), "-c".into(), script.into()];
    launch.env.push(("READY".into(), place.root().join("ready").display().to_string()));
    let session = session::launch(launch).await.unwrap();
    for i in 0..4 {
        wait_for("its processes", || place.root().join(format!("ready{i}")).exists()).await;
    }
    session.stop(Duration::from_millis(50)).await.unwrap();
    let exit = session.wait().await.unwrap();
    assert_eq!((exit.signal, exit.stopped), (Some(9), true));
    place.nothing_left().await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let place = Place::new();
    let session = session::launch(place.sh("setsid sleep 1000 & (sleep 1000 &) ; echo done")).await.unwrap();
    assert_eq!(session.wait().await.unwrap().code, Some(0));
    assert_eq!(place.text("stdout"), "done\n");
    place.nothing_left().await;
}

#[tokio::test]
async fn a_process_gets_its_chance_to_end_well() {
    let place = Place::new();
    let session = session::launch(place.sh("trap 'echo bye; exit 7' INT; echo up; while :; do sleep 0.01; done")).await.unwrap();
    wait_for("its start", || place.text("stdout") == "up\n").await;
    session.stop(Duration::from_secs(60)).await.unwrap();
    let exit = session.wait().await.unwrap();
    assert_eq!(exit.code, Some(7));
    assert_eq!(place.text("stdout"), "up\nbye\n");
    place.nothing_left().await;
}

#[tokio::test]
async fn an_adopted_session_has_all_its_output_and_its_end() {
    let place = Place::new();
    // A launcher in a process of its own, killed with -9 while the program runs.
    let gate = place.root().join("gate");
    let script = format!("echo before; while [ ! -e {} ]; do sleep 0.01; done; echo after; exit 5", gate.display());
    launch_and_die(&place, &script).await;
    let Adopted::Running(session) = session::adopt(&place.session).await.unwrap() else { panic!("it runs") };
    let mut tail = session.tail(Stream::Stdout, 0).unwrap();
    assert_eq!(tail.next().await.unwrap().unwrap(), "before\n");
    fs::write(gate, "").unwrap();
    assert_eq!(tail.next().await.unwrap().unwrap(), "after\n");
    assert_eq!(tail.next().await.unwrap(), None);
    assert_eq!(session.wait().await.unwrap().code, Some(5));
    place.nothing_left().await;
}

#[tokio::test]
async fn a_session_that_ended_while_nobody_looked_tells_its_exit() {
    let place = Place::new();
    launch_and_die(&place, "echo x; exit 6").await;
    wait_for("its end", || place.session.join("exit.json").exists()).await;
    for _ in 0..2 {
        match session::adopt(&place.session).await.unwrap() {
            Adopted::Ended(exit) => assert_eq!(exit.code, Some(6)),
            Adopted::Running(session) => assert_eq!(session.wait().await.unwrap().code, Some(6)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(place.text("stdout"), "x\n");
    place.nothing_left().await;
}

#[tokio::test]
async fn a_session_ends_with_its_nodes_lease_though_nobody_is_there() {
    let place = Place::new();
    let lease = place.session.with_extension("lease");
    let until = |left: Duration| LeasePage::write(&lease, BootClock.now().unwrap().0.saturating_add(left)).unwrap();
    let mut launch = place.sh("setsid sleep 1000 & sleep 1000 & echo up; wait");
    launch.shim.lease = Some(lease.clone());
    // None is launched before its node is known to hold a lease.
    let launching = tokio::spawn(session::launch(launch));
    until(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!launching.is_finished() && !place.session.exists());
    until(Duration::MAX);
    drop(launching.await.unwrap().unwrap());
    wait_for("its start", || place.text("stdout") == "up\n").await;
    assert!(session::is_held(&place.session));
    until(Duration::ZERO);
    wait_for("its end", || place.session.join("exit.json").exists()).await;
    let Adopted::Ended(exit) = session::adopt(&place.session).await.unwrap() else { panic!("it runs on") };
    assert!(exit.lease_over && !exit.stopped && !exit.success(), "{exit:?}");
    assert!(exit.describe().contains("lease"), "{}", exit.describe());
    place.nothing_left().await;
}

#[tokio::test]
async fn a_directory_without_a_session_never_started() {
    let place = Place::new();
    assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::NeverStarted));
    fs::create_dir_all(&place.session).unwrap();
    assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::NeverStarted));
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_leaves_no_orphan() {
    let place = Place::new();
    let session = session::launch(place.sh("setsid sleep 1000 & sleep 1000 & echo up; wait")).await.unwrap();
    wait_for("its start", || place.text("stdout") == "up\n").await;
    place.kill_shim();
    assert_eq!(session.wait().await, Err(session::Lost));
    place.nothing_left().await;
    assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::Lost));
}

#[tokio::test]
async fn orphans_of_a_shim_killed_together_with_its_node_are_killed_at_adoption() {
    let place = Place::new();
    launch_and_die(&place, "setsid sleep 1000 & sleep 1000 & echo up; wait").await;
    wait_for("its start", || place.text("stdout") == "up\n").await;
    place.kill_shim();
    wait_for("the shim's end", || !session::is_held(&place.session)).await;
    assert!(!place.processes().is_empty());
    assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::Lost));
    assert_eq!(place.processes(), Vec::<i32>::new());
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_and_said() {
    let place = Place::new();
    let mut launch = place.sh("head -c 300000000 /dev/zero; echo end >&2");
    launch.overflow = Overflow::Drop { bytes_max: 1 << 20 };
    let exit = session::launch(launch).await.unwrap().wait().await.unwrap();
    assert_eq!(exit.code, Some(0));
    let kept = fs::metadata(place.session.join("stdout")).unwrap().len();
    assert!(kept <= 1 << 20 && kept > 900_000, "{kept}");
    assert_eq!(exit.dropped_bytes + kept + place.text("stderr").len() as u64, 300_000_004);
    place.nothing_left().await;
}

#[tokio::test]
async fn a_process_waits_for_its_node_where_output_must_not_be_lost() {
    let place = Place::new();
    let mut launch = place.sh("head -c 20000000 /dev/zero");
    launch.overflow = Overflow::Wait { window_bytes: 1 << 20 };
    let session = session::launch(launch).await.unwrap();
    let mut tail = session.tail(Stream::Stdout, 0).unwrap();
    let mut ahead = 0;
    while let Some(_bytes) = tail.next().await.unwrap() {
        ahead = ahead.max(fs::metadata(place.session.join("stdout")).unwrap().len() - tail.offset());
        let _ = session.consumed(tail.offset()).await;
    }
    assert_eq!(tail.offset(), 20_000_000);
    assert!(ahead <= (1 << 20) + (64 << 10), "{ahead}");
    place.nothing_left().await;
}

#[tokio::test]
async fn bytes_are_bytes() {
    let place = Place::new();
    let session = session::launch(place.sh(r"printf '\377\000\376a\n'")).await.unwrap();
    session.wait().await.unwrap();
    assert_eq!(fs::read(place.session.join("stdout")).unwrap(), b"\xff\0\xfea\n");
    place.nothing_left().await;
}

#[tokio::test]
async fn a_pty_session_is_a_terminal_with_a_size_that_can_change() {
    let place = Place::new();
    let mut launch = place.sh("test -t 0 && test -t 2 && stty size; read line; echo got $line; stty size; read end || echo eof");
    launch.mode = SessionSpec::Pty { cols: 90, rows: 30 };
    let session = session::launch(launch).await.unwrap();
    wait_for("its size", || place.text("stdout").contains("30 90")).await;
    session.resize(100, 40).await.unwrap();
    session.write_stdin(b"hello\n", "").await.unwrap();
    wait_for("its new size", || place.text("stdout").contains("40 100")).await;
    session.close_stdin().await.unwrap();
    assert_eq!(session.wait().await.unwrap().code, Some(0));
    assert!(place.text("stdout").contains("got hello") && place.text("stdout").contains("eof"), "{}", place.text("stdout"));
    place.nothing_left().await;
}

#[tokio::test]
async fn a_person_can_attach_to_a_terminal_see_what_was_there_and_type() {
    let place = Place::new();
    let mut launch = place.sh("echo welcome; while read line; do [ $line = quit ] && exit 0; stty size; done");
    launch.mode = SessionSpec::Pty { cols: 80, rows: 24 };
    let session = session::launch(launch).await.unwrap();
    wait_for("its greeting", || place.text("stdout").contains("welcome")).await;
    let mut attached = session::attach(&place.session, 1 << 20).await.unwrap();
    attached.writer.resize(132, 50).await.unwrap();
    attached.writer.write(b"x\n").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("50 132") {
        seen.push_str(&String::from_utf8_lossy(&attached.reader.next().await.unwrap().unwrap()));
    }
    assert!(seen.starts_with("welcome"));
    attached.writer.write(b"quit\n").await.unwrap();
    while attached.reader.next().await.unwrap().is_some() {}
    assert_eq!(session.wait().await.unwrap().code, Some(0));
    assert!(session::attach(&place.session, 0).await.is_err());
    place.nothing_left().await;
}

/// The same shim where it sees no cgroup: as on a host that gives none away. Needs the right to unmount; without it
/// there are no cgroups for us to write either, and every other test here tries the same.
#[tokio::test]
async fn without_cgroups_nothing_is_left_frozen_means_frozen_and_memory_is_watched() {
    let hidden = session::ShimProgram {
        program: "unshare".into(),
        args: ["-m", "sh", "-c", "umount -a -t cgroup,cgroup2; exec \"$0\"", env!("CARGO_BIN_EXE_hiveward-shim-probe")]
            .map(String::from)
            .to_vec(),
        owner: None,
        lease: None,
    };
    let path = |mut launch: session::Launch| {
        if nix::unistd::geteuid().is_root() {
            launch.shim = session::ShimProgram { program: "/usr/bin/unshare".into(), ..hidden.clone() };
        }
        launch
    };
    let place = Place::new();
    let session = session::launch(path(place.sh("trap '' INT TERM; setsid sh -c 'trap \"\" INT TERM; sleep 1000' & (sleep 1000 &); i=0; while :; do i=$((i+1)); echo $i; done"))).await.unwrap();
    assert!(leaves(&place.session).is_empty() || !nix::unistd::geteuid().is_root());
    wait_for("its start", || place.len("stdout") > 0).await;
    session.freeze(true).await.unwrap();
    let frozen_at = wait_until_steady(|| place.len("stdout")).await;
    session.freeze(false).await.unwrap();
    wait_for("more output", || place.len("stdout") > frozen_at).await;
    session.stop(Duration::from_millis(20)).await.unwrap();
    assert_eq!(session.wait().await.unwrap().signal, Some(9));
    place.nothing_left().await;

    let place = Place::new();
    let session = session::launch(path(place.sh("setsid sleep 1000 & sleep 1000 & echo up; wait"))).await.unwrap();
    wait_for("its start", || place.text("stdout") == "up\n").await;
    place.kill_shim();
    assert_eq!(session.wait().await, Err(session::Lost));
    place.nothing_left().await;

    let place = Place::new();
    let mut launch = path(place.sh(""));
    launch.argv = vec![
        "python3".into(),
        "-c".into(),
        "import time\nx = []\nwhile True: x.append(bytearray(1 << 20)); time.sleep(0.001)".into(),
    ];
    launch.limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let exit = session::launch(launch).await.unwrap().wait().await.unwrap();
    assert!(exit.oom_killed && exit.signal == Some(9), "{exit:?}");
    place.nothing_left().await;
}

#[tokio::test]
async fn output_that_was_freed_is_a_gap_and_never_invented() {
    let place = Place::new();
    let mut launch = place.sh("head -c 5000000 /dev/zero | tr '\\0' x; read line; echo end");
    launch.stdin = Stdin::Pipe;
    launch.overflow = Overflow::Wait { window_bytes: 1 << 20 };
    let session = session::launch(launch).await.unwrap();
    let mut tail = session.tail(Stream::Stdout, 0).unwrap();
    while tail.offset() < 5_000_000 {
        tail.next().await.unwrap().unwrap();
        session.consumed(tail.offset()).await.unwrap();
    }
    session.write_stdin(b"\n", "").await.unwrap();
    session.wait().await.unwrap();
    let mut reader = transcript::Reader::open(&place.session).unwrap();
    let (mut at, mut read) = (0, Vec::new());
    loop {
        let chunk = reader.read(at, 64 << 10).unwrap();
        read.extend_from_slice(&chunk.bytes);
        at = chunk.next_byte;
        if chunk.at_end {
            break;
        }
    }
    assert_eq!(at, 5_000_004);
    assert!(read.len() < 3 << 20 && !read.contains(&0), "{}", read.len());
    assert!(read.ends_with(b"xend\n"));
    place.nothing_left().await;
}

#[tokio::test]
async fn a_frozen_session_does_nothing_until_it_is_thawed() {
    let place = Place::new();
    let session = session::launch(place.sh("i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i; done")).await.unwrap();
    wait_for("its start", || place.len("stdout") > 0).await;
    session.freeze(true).await.unwrap();
    let frozen_at = wait_until_steady(|| place.len("stdout")).await;
    assert!(session.is_frozen() && !session.has_ended());
    session.freeze(false).await.unwrap();
    wait_for("more output", || place.len("stdout") > frozen_at).await;
    // A frozen session can be stopped too.
    session.freeze(true).await.unwrap();
    session.stop(Duration::from_secs(60)).await.unwrap();
    assert_eq!(session.wait().await.unwrap().signal, Some(2));
    place.nothing_left().await;
}

#[tokio::test]
async fn a_kill_for_memory_is_reported_as_such() {
    let place = Place::new();
    let mut launch = place.sh("");
    launch.argv = vec!["python3".into(), "-c".into(), "x = []\nwhile True: x.append(bytearray(1 << 20))".into()];
    launch.limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let exit = session::launch(launch).await.unwrap().wait().await.unwrap();
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.signal, Some(9));
    assert!(exit.describe().contains("killed for memory"));
    place.nothing_left().await;
}

#[tokio::test]
async fn wall_time_is_kept_by_the_shim_while_the_node_is_away() {
    let place = Place::new();
    launch_and_die(&place, "#wall=300\ntrap '' INT; sleep 1000").await;
    wait_for("its end", || place.session.join("exit.json").exists()).await;
    let Ok(Adopted::Ended(Exit { timed_out: true, signal: Some(15), .. }) | Adopted::Running(_)) =
        session::adopt(&place.session).await
    else {
        panic!("it timed out: {}", place.text("exit.json"))
    };
    place.nothing_left().await;
}

#[tokio::test]
async fn no_secret_of_the_environment_is_on_disk_or_in_arguments() {
    let place = Place::new();
    let canary = format!("canary-{}", std::process::id());
    let mut launch = place.sh("echo up; cat; true");
    launch.stdin = Stdin::Pipe;
    launch.env.push(("TOKEN".into(), canary.clone()));
    let session = session::launch(launch).await.unwrap();
    wait_for("its start", || place.text("stdout") == "up\n").await;
    assert!(place.processes().len() >= 2);
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let argv = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!contains(&argv, canary.as_bytes()));
    }
    session.close_stdin().await.unwrap();
    session.wait().await.unwrap();
    for file in fs::read_dir(&place.session).unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            assert!(!contains(&fs::read(file.path()).unwrap(), canary.as_bytes()), "{:?}", file.path());
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
        }
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn two_launches_in_one_directory_never_run_twice() {
    let place = Place::new();
    let (one, two) = tokio::join!(session::launch(place.sh("echo x; sleep 0.1")), session::launch(place.sh("echo x; sleep 0.1")));
    let ((Ok(session), Err(LaunchError::Busy(_))) | (Err(LaunchError::Busy(_)), Ok(session))) = (one, two) else {
        panic!("one of them")
    };
    session.wait().await.unwrap();
    assert_eq!(place.text("stdout"), "x\n");
    assert!(matches!(session::launch(place.sh("echo x")).await, Err(LaunchError::Busy(_))));
    place.nothing_left().await;
}

#[tokio::test]
async fn removing_a_session_ends_it_and_its_files() {
    let place = Place::new();
    let session = session::launch(place.sh("sleep 1000")).await.unwrap();
    session.remove().await.unwrap();
    assert!(!place.session.exists());
    place.nothing_left().await;
}

#[tokio::test]
async fn a_shim_is_small() {
    let place = Place::new();
    let session = session::launch(place.sh("head -c 50000000 /dev/zero; sleep 1000")).await.unwrap();
    wait_for("its output", || place.len("stdout") == 50_000_000).await;
    let own = place.shim_own_bytes();
    println!("shim: {} KiB of its own", own >> 10);
    assert!(own < 1 << 20, "{own}");
    session.remove().await.unwrap();
    place.nothing_left().await;
}

#[tokio::test]
async fn a_session_whose_directory_was_removed_ends_with_all_its_processes() {
    let place = Place::new();
    let session = session::launch(place.sh("setsid sleep 1000 & exec sleep 1000")).await.unwrap();
    let leaves = leaves(&place.session);
    wait_for("both processes", || place.processes().len() == 3).await;
    drop(session);
    fs::remove_dir_all(&place.session).unwrap();
    place.nothing_left().await;
    assert!(leaves.iter().all(|leaf| !leaf.exists()));
}

#[tokio::test]
async fn the_record_of_what_a_process_was_given_is_shortened_by_what_is_over() {
    let place = Place::new();
    let mut launch = place.sh("cat");
    launch.stdin = Stdin::Pipe;
    let session = session::launch(launch).await.unwrap();
    for tag in ["one", "two", "three"] {
        session.write_stdin(format!("{tag}\n").as_bytes(), tag).await.unwrap();
    }
    session.forget_accepted(vec!["one".into(), "three".into(), "never".into()]).await.unwrap();
    let tags = || place.text("accepted").lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>();
    assert_eq!(tags(), ["two"]);
    session.write_stdin(b"four\n", "four").await.unwrap();
    assert_eq!(tags(), ["two", "four"]);
    session.remove().await.unwrap();
}

#[tokio::test]
async fn a_session_that_has_less_output_than_its_end_says_has_lost_it() {
    for (stream, script) in [("stdout", "echo result"), ("stderr", "echo result >&2")] {
        let place = Place::new();
        session::launch(place.sh(script)).await.unwrap().wait().await.unwrap();
        assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::Ended(_)));
        // As a power cut leaves a file that was not in sync.
        fs::File::options().write(true).open(place.session.join(stream)).unwrap().set_len(3).unwrap();
        assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::Cut), "{stream}");
        fs::remove_file(place.session.join(stream)).unwrap();
        assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::Cut), "{stream}");
        // The record of a shim that did not say how much there was.
        let path = place.session.join("exit.json");
        let mut record: serde_json::Map<_, _> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let since = ["stdout_bytes", "stderr_bytes", "lease_over", "sum"];
        assert!(since.iter().all(|field| record.remove(*field).is_some()), "{record:?}");
        fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(matches!(session::adopt(&place.session).await.unwrap(), Adopted::Ended(_)), "{stream}");
        place.nothing_left().await;
    }
}

#[tokio::test]
async fn a_damaged_record_of_what_a_process_was_given_is_not_taken_for_none() {
    let place = Place::new();
    let dir = session::SessionDir::new(&place.session);
    dir.create().unwrap();
    assert_eq!(dir.accepted_tags().unwrap(), Vec::<String>::new());
    fs::write(dir.accepted(), "1 one\n2 two\n").unwrap();
    assert_eq!(dir.accepted_tags().unwrap(), ["one", "two"]);
    for damage in [&b"1 one\n2 \xff\n"[..], b"1 one\n\0\0\0\0"] {
        fs::write(dir.accepted(), damage).unwrap();
        assert_eq!(dir.accepted_tags().unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }
    fs::remove_file(dir.accepted()).unwrap();
    fs::create_dir(dir.accepted()).unwrap();
    assert!(dir.accepted_tags().is_err(), "what cannot be read is not empty");
}
