//! Reads what the process says, line by line, and does what it means.

use std::{fs, sync::Arc, time::Duration};

use super::{
    Inner, Readiness, handled,
    protocol::{self, Heard, Said},
    write_handled,
};
use crate::{
    connector::{
        Outcome, Report, StopHow,
        attempt::{LEASE_OVER, apply_stop, lease_name},
    },
    lines::{LINE_BYTES_MAX, Line, Lines, head_of, percent, tail_of},
    session::{Exit, Lost, Session, Stream, Tail, transcript},
};

const MESSAGE_BYTES_MAX: usize = 1024;
/// Number of heartbeats without any before a process that promised them is given up: it may miss two.
const BEATS_MISSED_MAX: u32 = 3;

/// Follows the process to its end, which ends every job that is with it.
pub(super) async fn hear(inner: Arc<Inner>, session: Arc<Session>) {
    let fault = match handled(&session).and_then(|(offset, ready)| Ok((session.tail(Stream::Stdout, offset)?, ready))) {
        Ok((tail, ready)) => {
            if let Some(ready) = ready {
                inner.ready.send_replace(ready);
            }
            Box::pin(follow(&inner, &session, tail)).await
        }
        Err(error) => Some(format!("the worker's output, or how far it was heard, cannot be read: {error}")),
    };
    if fault.is_some() {
        apply_stop(&session, StopHow::AtOnce).await;
    }
    let exit = session.wait().await;
    let how = exit.as_ref().map_or_else(ToString::to_string, Exit::describe);
    let (stopping, fault) = {
        let mut state = inner.state.lock();
        (state.stopping || state.starting, fault.or(state.fault.take()))
    };
    let said = transcript::last_text(inner.dir(), Stream::Stderr, 2048);
    let said = inner.shared.base_env().map_or_else(|_| String::new(), |env| env.redact(&said));
    let message = match fault {
        Some(fault) => fault,
        None if said.is_empty() || stopping => format!("the worker ended ({how})"),
        None => format!("the worker ended ({how}): {}", tail_of(&said, 2048)),
    };
    let (held, was_ready) = {
        let mut state = inner.state.lock();
        state.session = None;
        let ready = matches!(*inner.ready.borrow(), Readiness::Ready { .. });
        // What has its result already only waits for its gate, which is a process of its own.
        let held: Vec<_> = state.jobs.keys().copied().filter(|lease| inner.attempt(*lease).read("result").is_none()).collect();
        (held, ready)
    };
    inner.ready.send_replace(Readiness::Dead(message.clone()));
    for lease in held {
        inner.finish(lease, died(&exit, message.clone())).await;
    }
    if was_ready && !stopping {
        inner.shared.report(Report::AgentDied { message }).await;
    }
}

/// Says what became of the tasks that a worker had when it ended.
pub(super) fn died(exit: &Result<Exit, Lost>, message: String) -> Outcome {
    match exit {
        // Nobody saw it end, or its node had to end it.
        Err(Lost) => Outcome::lost(message),
        Ok(exit) if exit.lease_over => Outcome::lost(LEASE_OVER),
        Ok(_) => Outcome::failed(message, true),
    }
}

/// Takes in what a process that has ended had said and nobody had heard.
pub(super) async fn rest(inner: &Arc<Inner>, session: &Session) {
    match handled(session).and_then(|(offset, _)| session.tail(Stream::Stdout, offset)) {
        // A fault of a process that has gone changes nothing any more.
        Ok(tail) => drop(Box::pin(follow(inner, session, tail)).await),
        Err(error) => tracing::warn!(%error, agent = %inner.shared.agent.id, "the last words of a worker cannot be read"),
    }
    inner.ready.send_replace(Readiness::Waiting);
}

/// Follows what the process says to its end. `Some` says how it broke the protocol.
async fn follow(inner: &Arc<Inner>, session: &Session, mut tail: Tail) -> Option<String> {
    let mut lines = Lines::default();
    loop {
        let silence = match &*inner.ready.borrow() {
            Readiness::Ready { heartbeat: Some(every) } => Some(*every * BEATS_MISSED_MAX),
            _ => None,
        };
        let bytes = match silence {
            None => tail.next().await,
            Some(limit) => match tokio::time::timeout(limit, tail.next()).await {
                Ok(bytes) => bytes,
                Err(_) if session.is_frozen() => continue,
                Err(_) => return Some(format!("the worker was silent for {} ms", limit.as_millis())),
            },
        };
        let bytes = match bytes {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return None,
            Err(error) => return Some(format!("the worker's output cannot be read: {error}")),
        };
        let mut heard = Vec::new();
        lines.feed(&bytes, |line| {
            heard.push(match line {
                Line::Whole(line) => protocol::parse(line),
                Line::TooLong => Heard::Garbage(format!("a line of more than {LINE_BYTES_MAX} bytes")),
            });
        });
        for one in heard {
            match one {
                Heard::Said(said) => obey(inner, said).await,
                Heard::Output => {}
                Heard::Garbage(what) => return Some(format!("the worker broke the protocol: it printed {what}")),
            }
        }
        let offset = tail.offset() - lines.pending() as u64;
        let ready = inner.ready.borrow().clone();
        if let Err(error) = write_handled(session, offset, &ready) {
            tracing::warn!(%error, "how far the worker was heard could not be recorded");
        }
        // Refused only when it has ended.
        let _ = session.consumed(offset).await;
    }
}

async fn obey(inner: &Arc<Inner>, said: Said) {
    let lease = |task: &str| protocol::lease(task, inner.shared.agent.id).filter(|lease| inner.attempt(*lease).exists());
    match said {
        Said::Ready { heartbeat_ms } => {
            let heartbeat = heartbeat_ms.filter(|ms| *ms > 0).map(Duration::from_millis);
            inner.ready.send_replace(Readiness::Ready { heartbeat });
        }
        Said::Heartbeat => {}
        Said::Progress { task, percent: value, message } => {
            let held = lease(&task).filter(|lease| inner.state.lock().jobs.contains_key(lease));
            if let Some(lease) = held {
                let message = message.map(|message| head_of(&message, MESSAGE_BYTES_MAX).to_owned());
                inner.shared.report(Report::Progress { lease, percent: percent(value), message }).await;
            }
        }
        Said::Result { task, value } => {
            let Some(lease) = lease(&task) else { return };
            let attempt = inner.attempt(lease);
            if attempt.outcome().is_some() || attempt.read("result").is_some() {
                return;
            }
            let bytes = if value.is_null() { Vec::new() } else { serde_json::to_vec(&value).unwrap_or_default() };
            if let Err(error) = attempt.write("result", &bytes) {
                return inner.finish(lease, Outcome::failed(format!("the result could not be kept: {error}"), true)).await;
            }
            let held = inner.state.lock().jobs.get(&lease).map(|held| (held.job.clone(), held.control.clone()));
            if let Some((job, control)) = held {
                inner.spawn(inner.clone().conclude(job, control));
            }
        }
        Said::Failed { task, message, retriable } => {
            let Some(lease) = lease(&task) else { return };
            let message = message.unwrap_or_else(|| "the worker reported a failure".to_owned());
            let outcome = Outcome::failed(head_of(&message, 4 * MESSAGE_BYTES_MAX), retriable.unwrap_or(true));
            let held = inner.state.lock().jobs.contains_key(&lease);
            if held {
                inner.finish(lease, outcome).await;
            } else if inner.attempt(lease).outcome().is_none() {
                // Its lease will be run again in this life: then this is what it came to.
                inner.attempt(lease).settle(&outcome);
            }
        }
        Said::Checkpoint { task, data } => {
            let Some(lease) = lease(&task) else { return };
            let path = inner.checkpoint(lease);
            let kept = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
                let temporary = path.with_extension("new");
                fs::write(&temporary, serde_json::to_vec(&data)?)?;
                fs::rename(temporary, &path)
            });
            if let Err(error) = kept {
                tracing::warn!(lease = lease_name(lease), %error, "a checkpoint could not be kept");
            }
        }
    }
}
