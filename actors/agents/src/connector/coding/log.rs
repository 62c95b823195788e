//! An attempt's activity on disk, and its transcript, which is the same as text.
//!
//! The activity is what counts: whatever else is kept of an attempt is made from it again. It is written before anything
//! that follows from it is done. A power cut may cost its end, and the process goes with it.

use std::{fs, io, path::Path};

use hiveward_runtime::clock::Clock;

use super::story::Story;
use crate::{
    activity::{Activity, What},
    session::{Exit, Recorder, SessionDir, Stream},
};

/// Bytes of the activity of one attempt; an attempt that has more to tell is stopped.
pub(super) const ACTIVITY_BYTES_MAX: u64 = 64 << 20;

pub(super) struct Log {
    pub story: Story,
    bytes: u64,
    activity: Recorder,
    transcript: Recorder,
    clock: Clock,
}

impl Log {
    /// Opens what is there, or begins.
    pub(super) fn open(activity_dir: &Path, session_dir: &Path, clock: Clock) -> io::Result<Self> {
        for dir in [activity_dir, session_dir] {
            std::os::unix::fs::DirBuilderExt::mode(fs::DirBuilder::new().recursive(true), 0o700).create(dir)?;
        }
        let text = match fs::read(SessionDir::new(activity_dir).stream(Stream::Stdout)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (mut story, mut rendered, mut whole) = (Story::default(), Vec::new(), 0);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            // A power cut may have torn the last line, or left zeros for it.
            let Ok(activity) = serde_json::from_slice::<Activity>(line) else { break };
            if !line.ends_with(b"\n") {
                break;
            }
            story.apply(&activity);
            rendered.extend_from_slice(activity.render().as_bytes());
            whole += line.len() as u64;
        }
        let activity = Recorder::reopen(activity_dir, u64::MAX, Some(whole))?;
        let mut transcript = Recorder::reopen(session_dir, ACTIVITY_BYTES_MAX, None)?;
        let written = usize::try_from(transcript.stdout_len()).unwrap_or(usize::MAX).min(rendered.len());
        if written < rendered.len() {
            transcript.append(Stream::Stdout, &rendered[written..], clock.now())?;
        }
        Ok(Self { story, bytes: whole, activity, transcript, clock })
    }

    /// Writes events; they are on disk (as far as a process needs) when it returns. `heard` says how far the process's output is
    /// dealt with by now.
    pub(super) fn write(&mut self, run: u32, heard: u64, what: Vec<What>) -> io::Result<()> {
        let at = self.clock.now();
        let (mut lines, mut rendered, mut new) = (Vec::new(), String::new(), Vec::with_capacity(what.len()));
        for (n, what) in (1..).zip(what) {
            let activity = Activity { seq: self.story.seq + n, at, run, heard, what };
            serde_json::to_writer(&mut lines, &activity)?;
            lines.push(b'\n');
            rendered.push_str(&activity.render());
            new.push(activity);
        }
        if new.is_empty() {
            return Ok(());
        }
        self.activity.append(Stream::Stdout, &lines, at)?;
        self.bytes += lines.len() as u64;
        for activity in &new {
            self.story.apply(activity);
        }
        if !rendered.is_empty() {
            self.transcript.append(Stream::Stdout, rendered.as_bytes(), at)?;
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes > ACTIVITY_BYTES_MAX
    }

    /// Closes the activity and the transcript: nothing follows, and readers are told.
    pub(super) fn close(self, exit: &Exit) -> io::Result<()> {
        self.activity.close(exit)?;
        self.transcript.close(exit)
    }
}
