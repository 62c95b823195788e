//! Promises: what is stopped is not cancelled, and what cannot be read of an attempt is no reason to begin it again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fs, path::PathBuf};

use hiveward_agents::connector::{End, StopHow, StopWhy, session_dir};
use hiveward_catalogue::agent::spec::ConnectorSpec;
use hiveward_kernel::lease::Lease;

use support::agent::{Bed, command, files_under, kind, worker};

const AT_ONCE: StopHow = StopHow::AtOnce;

/// The record of how the attempt ended, which a power cut may take.
fn record(bed: &Bed, lease: Lease) -> PathBuf {
    bed.data().join("attempts").join(format!("{}-{}", lease.task, lease.attempt)).join("outcome")
}

fn runs(bed: &Bed) -> usize {
    fs::read_to_string(bed.root().join("runs")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn an_attempt_is_cancelled_only_if_its_lease_was_taken_back_whoever_looks_at_it_and_when() {
    for why in [Some(StopWhy::NotHere), Some(StopWhy::AgentStopped), None] {
        let mut bed = Bed::new(ConnectorSpec::Command);
        let lease = bed.lease();
        let job = command(lease, "echo x >> \"$PLACE/runs\"; sleep 1000");
        bed.connector.run(job.clone()).await;
        bed.started(lease).await;
        // That it was started does not say that it has got so far.
        support::wait_for("it to have run", || runs(&bed) == 1).await;
        let wanted = match why {
            Some(why) => {
                bed.connector.stop(AT_ONCE, why).await;
                (End::Lost, true)
            }
            None => {
                bed.connector.cancel(lease, AT_ONCE).await;
                (End::Cancelled, false)
            }
        };
        let outcome = bed.end_of(lease).await;
        assert_eq!((outcome.end, outcome.retriable), wanted, "{why:?}: {outcome:?}");
        for power_cut in [false, true] {
            if power_cut {
                fs::remove_file(record(&bed, lease)).unwrap();
            }
            bed.next_life();
            bed.connector.run(job.clone()).await;
            let outcome = bed.end_of(lease).await;
            assert_eq!((outcome.end, outcome.retriable), wanted, "{why:?}, as a later life sees it: {outcome:?}");
        }
        assert_eq!(runs(&bed), 1);
        bed.nothing_left();
    }
}

#[tokio::test]
async fn an_attempt_that_lost_its_output_in_a_power_cut_is_lost_and_never_succeeds_with_less() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let lease = bed.lease();
    let job = command(lease, "echo x >> \"$PLACE/runs\"; echo a long result");
    bed.connector.run(job.clone()).await;
    assert_eq!(bed.end_of(lease).await.end, End::Succeeded);
    fs::remove_file(record(&bed, lease)).unwrap();
    let stdout = session_dir(bed.data(), lease).join("stdout");
    fs::File::options().write(true).open(stdout).unwrap().set_len(4).unwrap();
    bed.next_life();
    bed.connector.run(job).await;
    let outcome = bed.end_of(lease).await;
    assert_eq!((outcome.end, outcome.retriable, outcome.result), (End::Lost, true, None), "{:?}", outcome.error);
    assert_eq!(runs(&bed), 1);
    bed.nothing_left();
}

#[tokio::test]
async fn an_attempt_whose_end_cannot_be_read_has_failed_and_is_not_run_again() {
    let mut bed = Bed::new(ConnectorSpec::Command);
    let lease = bed.lease();
    let job = command(lease, "echo x >> \"$PLACE/runs\"");
    bed.connector.run(job.clone()).await;
    assert_eq!(bed.end_of(lease).await.end, End::Succeeded);
    // A disk that gives it no more.
    let record = record(&bed, lease);
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    // Of a program that never was, by all that is left.
    fs::remove_dir_all(session_dir(bed.data(), lease)).unwrap();
    bed.next_life();
    bed.connector.run(job).await;
    let outcome = bed.end_of(lease).await;
    assert_eq!((outcome.end, outcome.retriable), (End::Failed, true), "{outcome:?}");
    assert_eq!(runs(&bed), 1);
}

/// Says that it is ready, and answers each line that it is given, after noting it.
const NOTING: &str = r#"
echo '{"type":"ready"}'
while read -r line; do echo x >> "$PLACE/runs"; sleep 1000; done
"#;

#[tokio::test]
async fn a_worker_is_not_told_or_heard_again_because_a_record_cannot_be_read() {
    for damaged in ["accepted", "handled"] {
        let mut bed = Bed::new(worker(NOTING));
        bed.connector.start().await.unwrap();
        let lease = bed.lease();
        let job = kind(lease, "any", "{}");
        bed.connector.run(job.clone()).await;
        support::wait_for("the worker to have its task", || runs(&bed) == 1).await;
        bed.connector.release().await;
        let record = files_under(&bed.data().join("sessions")).into_iter().find(|file| file.ends_with(damaged)).unwrap();
        fs::write(&record, b"\xff\xfe").unwrap();
        bed.next_life();
        match bed.connector.start().await {
            Err(failure) => {
                assert!(failure.message.contains("cannot be read") || failure.message.contains("could not be used"), "{failure}")
            }
            // Another process, which has none of it; what the first one had is said to have failed.
            Ok(()) => {
                bed.connector.run(job).await;
                assert_eq!(bed.end_of(lease).await.end, End::Failed, "{damaged}");
            }
        }
        bed.connector.stop(AT_ONCE, StopWhy::AgentStopped).await;
        assert_eq!(runs(&bed), 1, "{damaged}: it was told again");
        bed.nothing_left();
    }
}
