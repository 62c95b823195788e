//! Puts a person in the agent's place: its program is let go, the program's own terminal goes on with the conversation, and when
//! that ends another process of the protocol does.
//!
//! That it was taken over is in the log before anything ends, so a node that dies in between goes on with the same.

use std::{fs, io, path::Path, time::Duration};

use hiveward_catalogue::agent::spec::{Limits, SessionSpec};
use serde_json::Value;

use super::{
    Order,
    dialect::TerminalProgram,
    engine::{Engine, Fault, new_id},
};
use crate::connector::Told;
use crate::{
    activity::{Prompter, What},
    connector::{End, Outcome, Report, attempt::terminal_dir, machine},
    session::{self, Adopted, Launch, Overflow, Stdin},
};

/// Columns of the terminal, until somebody attaches whose own terminal says how large it is.
const COLS: u16 = 120;
const ROWS: u16 = 40;
/// Bytes of what it shows, in all; more is read and not kept.
const SHOWN_BYTES_MAX: u64 = 64 << 20;

const GIVEN_BACK: &str = "A person took this conversation over from you, worked in it and in the workspace, and has given it \
                          back. Look at how things are now, and go on with the task from there.";

impl Engine<'_> {
    /// Returns what is to be written when a person takes over. Errors: why nobody can, in words.
    pub(super) fn take_over(&self, by: String) -> Result<What, String> {
        if machine::of(&self.attempt.shared).is_some() {
            return Err(
                "its program runs in a VM, where nobody can sit at its terminal; use `task interrupt` and `task say`".into()
            );
        }
        let opening = self.opening(self.log.story.run);
        if self.log.story.session.is_none() || !self.log.story.greeted {
            return Err("its program has not begun its conversation yet; try again in a moment".to_owned());
        }
        match self.dialect.terminal(&opening) {
            Some(_) => Ok(What::TakenOver { by }),
            None => {
                Err("its program has no terminal that goes on with its conversation; use `task interrupt` and `task say`".into())
            }
        }
    }

    /// Waits from when it was taken over to when another process goes on. Returns an outcome if the attempt ends in between.
    pub(super) async fn attended(&mut self) -> Result<Option<Outcome>, Fault> {
        let story = &self.log.story;
        let (run, number) = (story.run, story.takeovers.saturating_sub(1));
        if let Ok(Adopted::Running(program)) = session::adopt(self.attempt.run_dir(run)).await {
            self.see_off(&program).await;
        }
        let dir = terminal_dir(&self.attempt.shared.env.data_dir, self.job.lease, number);
        let terminal = self.attempt.open(&dir, self.control, || self.launch_terminal(run, &dir)).await?;
        self.attempt.shared.report(Report::Started { lease: self.job.lease }).await;
        let grace = self.attempt.shared.grace();
        let (mut by, mut message) = (None, None);
        let exit = loop {
            tokio::select! {
                exit = terminal.wait() => break exit,
                Some(Order { what, reply }) = self.orders.recv() => {
                    let answer = match what {
                        Told::GiveBack { by: who, message: said, .. } => {
                            (by, message) = (Some(who), said);
                            // Refused only when it has ended.
                            let _ = terminal.stop(grace).await;
                            Ok(())
                        }
                        _ => Err(format!("{} has taken it over: give it back first", self.log.story.taken.as_deref().unwrap_or("a person"))),
                    };
                    // Dropped if nobody waits for it any more.
                    let _ = reply.send(answer);
                }
            }
        };
        self.control.live.lock().take();
        if let Some(outcome) = self.attempt.judge(&dir, &exit, &self.env)
            && by.is_none()
            && matches!(outcome.end, End::Cancelled | End::TimedOut | End::Lost)
        {
            return Ok(Some(outcome));
        }
        let by = by.or_else(|| self.log.story.taken.clone()).unwrap_or_default();
        let session = self.log.story.session.clone();
        let mut what = vec![
            What::GivenBack { by: by.clone() },
            What::Began { session, why: None },
            What::Prompted { id: new_id(), text: GIVEN_BACK.to_owned(), by: Prompter::Hiveward },
        ];
        what.extend(message.map(|text| What::Prompted { id: new_id(), text, by: Prompter::Person(by) }));
        self.write(run + 1, 0, what)?;
        Ok(None)
    }

    fn launch_terminal(&self, run: u32, dir: &Path) -> Result<Launch, String> {
        let opening = self.opening(run);
        let program = self.dialect.terminal(&opening).ok_or("its program has no terminal of its own")?;
        let TerminalProgram { args, env: more, settings } = program;
        if let Some((path, settings)) = settings {
            settle_in(&path, settings).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
        let mut env = self.env.clone();
        env.set("TERM", "xterm-256color".to_owned());
        for (name, value) in more {
            env.set(&name, value);
        }
        let shared = &self.attempt.shared;
        let elapsed = self.log.story.began_at.map_or(Duration::ZERO, |at| shared.env.clock.now().since(at));
        Ok(Launch {
            dir: dir.to_owned(),
            argv: self.spec.argv.iter().cloned().chain(args).collect(),
            env: env.env,
            cwd: self.workspace.clone(),
            stdin: Stdin::Pipe,
            mode: SessionSpec::Pty { cols: COLS, rows: ROWS },
            limits: Limits { wall_ms: None, ..shared.agent.limits.clone() },
            wall: shared.run_timeout(self.job).map(|whole| whole.saturating_sub(elapsed)),
            grace: shared.grace(),
            overflow: Overflow::Drop { bytes_max: SHOWN_BYTES_MAX },
            keeps: None,
            shim: shared.env.shim.clone(),
        })
    }

    /// Withdraws what is open: it is not waited for any more.
    pub(super) async fn withdraw_all(&self) {
        for open in self.log.story.open.values() {
            self.attempt.shared.report(Report::Withdrawn { approval: open.approval }).await;
        }
    }
}

/// Adds settings to a program's own file, and leaves the rest of it as it is.
fn settle_in(path: &Path, settings: Value) -> io::Result<()> {
    let mut whole = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Object(serde_json::Map::new()),
        Err(error) => return Err(error),
    };
    merge(&mut whole, settings);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    hiveward_runtime::file::replace(path, whole.to_string().as_bytes())
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_added_to_what_the_program_keeps_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/settings.json");
        settle_in(&path, json!({"projects": {"/a": {"trusted": true}}})).unwrap();
        settle_in(&path, json!({"done": true, "projects": {"/b": {"trusted": true}}})).unwrap();
        let text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(text, json!({"done": true, "projects": {"/a": {"trusted": true}, "/b": {"trusted": true}}}));
        fs::write(&path, "no JSON").unwrap();
        assert!(settle_in(&path, json!({})).is_err(), "what is not understood is not written over");
    }
}
