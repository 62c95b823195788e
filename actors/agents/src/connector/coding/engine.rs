//! One attempt of a coding agent, from wherever it is to its outcome: its processes one after the other, what is said to
//! them and what they say, questions, messages and interruptions.
//!
//! The order that makes it safe to die anywhere: what a line means is in the log before the log says that the line was
//! dealt with; what is said to the process carries a tag that its shim records, so nothing is said twice.

use std::{collections::HashSet, fs, io, path::PathBuf, sync::Arc, time::Duration};

use hiveward_catalogue::agent::{
    coding::{AnswerKind, CodingSpec},
    spec::{Limits, SessionSpec},
};
use hiveward_kernel::id::ApprovalId;
use hiveward_models::access::Pass;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Order,
    dialect::{Dialect, Heard, Opening, Way},
    log::Log,
    prompt,
    stuck::Watch,
};
use crate::{
    activity::{Prompter, TurnEnd, What, bounded, head},
    connector::{
        End, Job, Outcome, Report,
        attempt::{Attempt, Control},
        secrets::Resolved,
    },
    lines::{self, Lines},
    policy::Rules,
    session::{Launch, Overflow, Session, Stdin, Stream, Tail},
};

/// Bytes of a line of a program's output; a tool's result with a picture in it takes a few.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes of output that are kept for a node that is away, and behind what was dealt with.
const WINDOW_BYTES: u64 = 32 << 20;
/// Time that a program that has done its work has to go by itself.
const GO_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of tools' output in an event.
const OUTPUT_BYTES_MAX: usize = crate::activity::DETAIL_BYTES_MAX;

const GO_ON: &str = "Your process ended unexpectedly and was started again. Look at what is already done, and go on with the \
                     task from there.";

pub(super) struct Engine<'a> {
    pub attempt: &'a Attempt,
    pub job: &'a Job,
    pub spec: &'a CodingSpec,
    pub rules: &'a Rules,
    pub control: &'a Control,
    pub orders: mpsc::Receiver<Order>,
    pub dialect: Box<dyn Dialect>,
    pub log: Log,
    pub workspace: PathBuf,
    pub env: Resolved,
    /// Pass to the model gateway; `None` for a program that calls models by itself.
    pub pass: Option<Pass>,
    pub task: String,
}

/// Number of lines without a meaning to us, one after the other: warnings, and messages of newer versions. More is a flood.
const NOISE_LINES_MAX: u32 = 100_000;
const NOISE_BYTES_MAX: u64 = 64 << 20;

/// How a process's part of the attempt came to an end.
pub(super) enum Step {
    Over(Outcome),
    /// The process has gone, or is of no use: how.
    Gone(String),
    TakenOver,
}

/// The conversation with one process.
pub(super) struct Talk<'a> {
    pub session: &'a Session,
    pub run: u32,
    pub told: HashSet<String>,
    /// Place up to which its output was read; `dealt` is the one up to where nothing is held back.
    pub read: u64,
    pub dealt: u64,
    pub last_word: Instant,
    pub watch: Watch,
    /// Place up to which output was said to be consumed; its shim keeps the rest.
    pub consumed: u64,
    /// Lines and bytes since it last said something that means anything.
    pub noise: (u32, u64),
}

pub(super) type Fault = Outcome;

pub(super) fn machine(what: &str, error: &io::Error) -> Outcome {
    Outcome::failed(format!("{what}: {error}"), true)
}

impl Engine<'_> {
    pub(super) async fn run(mut self) -> (Outcome, Log) {
        let outcome = match self.work().await {
            Ok(outcome) | Err(outcome) => outcome,
        };
        let outcome = Outcome { error: outcome.error.map(|error| self.env.redact(&error)), ..outcome };
        (outcome, self.log)
    }

    async fn work(&mut self) -> Result<Outcome, Fault> {
        if self.log.story.began_at.is_none() {
            let first = What::Prompted { id: new_id(), text: self.task.clone(), by: Prompter::Task };
            self.write(0, 0, vec![What::Began { session: None, why: None }, first])?;
        }
        loop {
            if self.log.story.taken.is_some() {
                match self.attended().await? {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                }
            }
            let run = self.log.story.run;
            let dir = self.attempt.run_dir(run);
            // Nothing more to come of it: the node died between its last words and the outcome.
            let done = matches!(self.log.story.rests(), Some((TurnEnd::Done, _)));
            if done && !dir.exists() {
                return Ok(self.conclude());
            }
            let session = self.attempt.open(&dir, self.control, || self.launch(run)).await?;
            let step = self.converse(&session, run).await;
            self.control.live.lock().take();
            let how = match step {
                Ok(Step::Over(outcome)) => {
                    self.see_off(&session).await;
                    return Ok(outcome);
                }
                // Its program is seen off there: it may be another life of ours that does.
                Ok(Step::TakenOver) => continue,
                Ok(Step::Gone(how)) => how,
                Err(fault) => {
                    // Nobody listens to it any more. Refused only when it has ended.
                    let _ = session.stop(self.attempt.shared.grace()).await;
                    let _ = session.wait().await;
                    return Err(fault);
                }
            };
            let exit = session.wait().await;
            if let Some(outcome) = self.attempt.judge(&dir, &exit, &self.env)
                && matches!(outcome.end, End::Cancelled | End::TimedOut | End::Lost)
            {
                return Ok(outcome);
            }
            self.begin_again(run, &how).await?;
        }
    }

    /// Begins another process on the same conversation, if there was one and it may. Errors: it ended too often.
    async fn begin_again(&mut self, run: u32, how: &str) -> Result<(), Fault> {
        self.withdraw_all().await;
        let story = &self.log.story;
        let (heard, session) = (story.heard, story.session.clone().filter(|_| story.greeted));
        self.write(run, heard, vec![What::Died { how: how.to_owned() }])?;
        let deaths = self.log.story.deaths;
        if deaths > self.spec.resumes_max {
            let message = format!("its program ended {deaths} times before it was done; the last time: {how}");
            return Err(Outcome::failed(message, true));
        }
        let story = &self.log.story;
        let mut what = vec![What::Began { session: session.clone(), why: Some(how.to_owned()) }];
        // What persons said and the program had not taken up is said again.
        let unheard = story.prompts.iter().filter(|prompt| session.is_none() || !prompt.heard).cloned();
        let again = unheard.map(|prompt| What::Prompted { id: new_id(), text: prompt.text, by: prompt.by });
        let go_on = session.is_some().then(|| What::Prompted { id: new_id(), text: GO_ON.to_owned(), by: Prompter::Hiveward });
        what.extend(go_on);
        what.extend(again);
        self.write(run + 1, 0, what)
    }

    pub(super) fn write(&mut self, run: u32, heard: u64, what: Vec<What>) -> Result<(), Fault> {
        self.log.write(run, heard, what).map_err(|error| machine("the attempt's activity could not be written", &error))?;
        if self.log.is_full() {
            return Err(Outcome::failed("it said more than an attempt may; it was stopped", false));
        }
        Ok(())
    }

    pub(super) fn opening(&self, run: u32) -> Opening {
        let shared = &self.attempt.shared;
        Opening {
            resume: self.log.story.session.clone(),
            model: self.spec.model.clone(),
            instructions: self.spec.instructions.clone(),
            workspace: self.workspace.clone(),
            home: shared.env.data_dir.join("coding").join(shared.agent.id.to_string()),
            models: self.pass.as_ref().map(|pass| Way { url: pass.url.clone(), token: pass.token.clone() }),
            authenticate: self.spec.authenticate.clone(),
            run,
            greeted: self.log.story.greeted,
        }
    }

    fn launch(&self, run: u32) -> Result<Launch, String> {
        let opening = self.opening(run);
        let program = self.dialect.program(&opening);
        fs::create_dir_all(&opening.home).map_err(|error| format!("the agent's directory cannot be made: {error}"))?;
        let mut env = self.env.clone();
        for (name, value) in program.env {
            env.set(&name, value);
        }
        let agent = &self.attempt.shared.agent;
        let elapsed = self.log.story.began_at.map_or(Duration::ZERO, |at| self.attempt.shared.env.clock.now().since(at));
        Ok(Launch {
            dir: self.attempt.run_dir(run),
            argv: self.spec.argv.iter().cloned().chain(program.args).collect(),
            env: env.env,
            cwd: self.workspace.clone(),
            stdin: Stdin::Pipe,
            mode: SessionSpec::Pipes,
            limits: Limits { wall_ms: None, ..agent.limits.clone() },
            wall: self.attempt.shared.run_timeout(self.job).map(|whole| whole.saturating_sub(elapsed)),
            grace: self.attempt.shared.grace(),
            overflow: Overflow::Wait { window_bytes: WINDOW_BYTES },
            keeps: None,
            shim: self.attempt.shared.env.shim.clone(),
        })
    }

    async fn converse(&mut self, session: &Arc<Session>, run: u32) -> Result<Step, Fault> {
        self.attempt.shared.report(Report::Started { lease: self.job.lease }).await;
        // Refused only when the process has ended; then that is what is read.
        let _ = session.claim_stdin().await;
        let told = session.dir().accepted_tags();
        let told = told.map_err(|error| machine("what the program was told cannot be read", &error))?.into_iter().collect();
        let heard = self.log.story.heard;
        let mut tail =
            session.tail(Stream::Stdout, heard).map_err(|error| machine("the program's output cannot be read", &error))?;
        let mut talk = Talk {
            session,
            run,
            told,
            read: heard,
            dealt: heard,
            last_word: Instant::now(),
            watch: Watch::default(),
            consumed: heard,
            noise: (0, 0),
        };
        for prompt in &self.log.story.prompts {
            if !prompt.heard && talk.told.contains(&prompt.id) {
                self.dialect.was_prompted(&prompt.id);
            }
        }
        for line in self.dialect.opening(&self.opening(run)) {
            self.tell(&mut talk, line).await?;
        }
        self.say_prompts(&mut talk).await?;
        self.repeat_answers(&mut talk).await?;
        self.repeat_questions().await;
        self.listen(&mut talk, &mut tail).await
    }

    async fn listen(&mut self, talk: &mut Talk<'_>, tail: &mut Tail) -> Result<Step, Fault> {
        let mut lines = Lines::bounded(LINE_BYTES_MAX);
        loop {
            if let Some(step) = self.settled().await? {
                return Ok(step);
            }
            let quiet = talk.last_word + Duration::from_millis(self.spec.quiet_ms);
            tokio::select! {
                Some(order) = self.orders.recv() => {
                    if let Some(step) = self.obey(talk, order).await? {
                        return Ok(step);
                    }
                }
                bytes = tail.next() => match bytes {
                    Ok(Some(bytes)) => {
                        let mut whole = Vec::new();
                        lines.feed(&bytes, |line| whole.push(match line {
                            lines::Line::Whole(line) => Some(line.to_vec()),
                            lines::Line::TooLong => None,
                        }));
                        for line in whole {
                            let Some(line) = line else {
                                let message = format!("its program broke the protocol: a line of more than {LINE_BYTES_MAX} bytes");
                                return Err(Outcome::failed(message, false));
                            };
                            talk.read += line.len() as u64 + 1;
                            if let Some(step) = self.hear(talk, &line).await? {
                                return Ok(step);
                            }
                        }
                        if talk.dealt > talk.consumed {
                            talk.consumed = talk.dealt;
                            // Refused only when it has ended.
                            let _ = talk.session.consumed(talk.dealt).await;
                        }
                    }
                    Ok(None) => return self.gone(talk).await,
                    Err(error) => return Err(machine("the program's output cannot be read", &error)),
                },
                () = tokio::time::sleep_until(quiet), if self.log.story.open.is_empty() => {
                    if talk.session.is_frozen() || self.waits_for_a_person() {
                        talk.last_word = Instant::now();
                    } else {
                        let why = format!("there was no word of it for {} s", self.spec.quiet_ms / 1000);
                        self.nudge(talk, why).await?;
                    }
                },
            }
        }
    }

    fn waits_for_a_person(&self) -> bool {
        matches!(self.log.story.rests(), Some((TurnEnd::Interrupted, _)))
    }

    /// Returns how the attempt is over if nothing is to come any more; `None` if it goes on.
    async fn settled(&mut self) -> Result<Option<Step>, Fault> {
        let Some((end, _)) = self.log.story.rests() else { return Ok(None) };
        Ok(match end {
            TurnEnd::Done => Some(Step::Over(self.conclude())),
            TurnEnd::Interrupted => None,
            TurnEnd::Failed { message } => {
                let message = message.clone();
                let outcome = match self.attempt.shared.env.models.refusal(self.job.lease) {
                    Some(refusal) => Outcome::failed(refusal, false),
                    None => Outcome::failed(explained(&message), true),
                };
                Some(Step::Over(outcome))
            }
        })
    }

    async fn gone(&mut self, talk: &Talk<'_>) -> Result<Step, Fault> {
        let exit = talk.session.wait().await;
        let how = exit.map_or_else(|lost| lost.to_string(), |exit| exit.describe());
        let said = crate::session::transcript::last_text(talk.session.dir().path(), Stream::Stderr, 2048);
        let said = self.env.redact(&said);
        Ok(Step::Gone(if said.is_empty() { how } else { format!("{how}: {}", lines::tail_of(&said, 1024)) }))
    }

    /// Lets a program go whose work is done, and ends it if it does not go.
    pub(super) async fn see_off(&self, session: &Session) {
        // Refused only when it has ended.
        let _ = session.close_stdin().await;
        if tokio::time::timeout(GO_WITHIN, session.wait()).await.is_err() {
            let _ = session.stop(self.attempt.shared.grace()).await;
            let _ = session.wait().await;
        }
    }

    fn conclude(&self) -> Outcome {
        let text = self.log.story.rests().and_then(|(_, text)| text.clone());
        let ok = Outcome::of(End::Succeeded);
        match (self.spec.answer, text) {
            (AnswerKind::Text, text) => {
                let result = text.and_then(|text| serde_json::to_vec(&text).ok()).map(Into::into);
                Outcome { result, ..ok }
            }
            (AnswerKind::Json, Some(text)) => match prompt::json_in(&text) {
                Some(value) => Outcome { result: Some(value.to_string().into_bytes().into()), ..ok },
                None => Outcome::failed(format!("its answer is no JSON: {}", head(&text, 512)), true),
            },
            (AnswerKind::Json, None) => Outcome::failed("it gave no answer", true),
        }
    }

    /// Takes in a line that says nothing: one more is borne, a flood is not.
    fn bear_noise(&self, talk: &mut Talk<'_>, line: &[u8]) -> Result<Option<Step>, Fault> {
        let (lines, bytes) = (talk.noise.0 + 1, talk.noise.1 + line.len() as u64 + 1);
        talk.noise = (lines, bytes);
        if lines > NOISE_LINES_MAX || bytes > NOISE_BYTES_MAX {
            let message = format!("it wrote {lines} lines with {bytes} bytes that say nothing; it was stopped");
            return Err(Outcome::failed(message, false));
        }
        if self.dialect.is_settled() {
            talk.dealt = talk.read;
        }
        Ok(None)
    }

    async fn hear(&mut self, talk: &mut Talk<'_>, line: &[u8]) -> Result<Option<Step>, Fault> {
        let heard = self.dialect.hear(line).map_err(|why| {
            let why = self.env.redact(&why);
            Outcome::failed(format!("its program broke the protocol: {}", head(&why, 1024)), false)
        })?;
        talk.last_word = Instant::now();
        if heard.is_empty() {
            return self.bear_noise(talk, line);
        }
        talk.noise = (0, 0);
        let (mut what, mut stuck) = (Vec::new(), None);
        let (mut asked, mut lost) = (Vec::new(), None);
        for one in heard {
            stuck = talk.watch.see(&one).or(stuck);
            match one {
                Heard::Greeted { session, program, model } => {
                    // It greets again at each turn.
                    let known = self.log.story.greeted && self.log.story.session.as_deref() == Some(&*session);
                    if !known {
                        what.push(What::Greeted { session, program, model });
                    }
                }
                Heard::Prompt { id } => {
                    let known = self.log.story.prompts.iter().any(|prompt| prompt.id == id && prompt.heard);
                    if !known {
                        what.push(What::Heard { id });
                    }
                }
                Heard::Said { text } => what.push(What::Said { text }),
                Heard::Thought { text } => what.push(What::Thought { text }),
                // Told before, to an earlier life of ours.
                Heard::ToolCalled { id, .. } if self.log.story.calls.contains(&id) => {}
                Heard::ToolCalled { id, tool, input } => what.push(What::ToolCalled { id, tool, input: bounded(input) }),
                Heard::ToolEnded { id, failed, output } => {
                    let shown = head(&output, OUTPUT_BYTES_MAX);
                    let output = match output.len() - shown.len() {
                        0 => output,
                        cut => format!("{shown}… ({cut} bytes more)"),
                    };
                    what.push(What::ToolEnded { id, failed, output });
                }
                Heard::Asks { request, call, tool, input, choices } => {
                    asked.push(request.clone());
                    what.extend(self.asked(request, call, tool, input, choices)?);
                }
                Heard::Withdrawn { request } => what.push(What::Withdrawn { request }),
                Heard::TurnEnded { end, text, usage } => what.push(What::TurnEnded { end, text, usage }),
                Heard::Noted { text } => what.push(What::Noted { text }),
                Heard::Tell(line) => self.tell(talk, line).await?,
                Heard::Wants { id, want } => {
                    let (result, touched) = self.do_it(&want);
                    what.extend(touched.map(|path| What::Touched { path }));
                    let line = self.dialect.done(&id, result);
                    self.tell(talk, line).await?;
                }
                Heard::Lost { why } => lost = Some(why),
                Heard::Unfit { why } => return Err(Outcome::failed(explained(&why), false)),
            }
        }
        let withdrawn: Vec<ApprovalId> = what
            .iter()
            .filter_map(|what| match what {
                What::Withdrawn { request } => self.log.story.open.get(request).map(|open| open.approval),
                // Whatever was open in a turn that has ended is void.
                _ => None,
            })
            .collect();
        if self.dialect.is_settled() {
            talk.dealt = talk.read;
        }
        self.write(talk.run, talk.dealt, what)?;
        for approval in withdrawn {
            self.attempt.shared.report(Report::Withdrawn { approval }).await;
        }
        self.repeat_answers(talk).await?;
        for request in asked {
            self.report_question(&request).await;
        }
        self.say_prompts(talk).await?;
        if let Some(why) = stuck {
            self.nudge(talk, why).await?;
        }
        if let Some(why) = lost {
            self.see_off(talk.session).await;
            return Ok(Some(Step::Gone(why)));
        }
        Ok(None)
    }
}

/// Returns the tag of what was said in the shim's record.
pub(super) fn tag_of(name: &str) -> String {
    let plain = name.len() <= 100 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if plain {
        name.to_owned()
    } else {
        format!("h-{:032x}", u128::from_be_bytes(hiveward_runtime::store::blob::fingerprint(name.as_bytes())))
    }
}

/// Returns a new id as programs like them: a UUID.
pub(super) fn new_id() -> String {
    let digits = format!("{:032x}", hiveward_runtime::id::new_v7());
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// Adds what a user can do about messages of programs that say it badly.
fn explained(message: &str) -> String {
    let lower = message.to_lowercase();
    let hint = if lower.contains("invalid api key") || lower.contains("/login") || lower.contains("authentication") {
        "; the model gateway's provider has no valid key: check `models.providers` and its secret on the agent's host"
    } else {
        ""
    };
    format!("{}{hint}", head(message, 3 << 10))
}

/// Bytes of one piece of standard input; see the session's own bound.
pub(super) const STDIN_BYTES_MAX: usize = 1 << 20;
