//! What is said to the program: prompts, interruptions, nudges, each once; and what persons want it to be told.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Order,
    dialect::Line,
    engine::{Engine, Fault, STDIN_BYTES_MAX, Step, Talk, new_id, tag_of},
    story::Prompt,
    stuck::Watch,
};
use crate::connector::Told;
use crate::{
    activity::{Prompter, What},
    connector::{Outcome, Report},
    session::SessionError,
};

/// Time after which a program is given up that takes nothing of what is said to it.
const TAKE_WITHIN: Duration = Duration::from_secs(30);
const GET_ON: &str = "You do not seem to get on";

impl Engine<'_> {
    pub(super) async fn say_prompts(&mut self, talk: &mut Talk<'_>) -> Result<(), Fault> {
        let session = self.log.story.session.clone().filter(|_| self.log.story.greeted);
        let told = |talk: &Talk<'_>, prompt: &Prompt| talk.told.contains(&prompt.id);
        let unsaid: Vec<_> = self.log.story.prompts.iter().filter(|prompt| !told(talk, prompt)).cloned().collect();
        for prompt in unsaid {
            let busy = self.log.story.prompts.iter().any(|other| told(talk, other) && !other.heard);
            if !self.dialect.takes_prompts(session.as_deref(), busy) {
                break;
            }
            let line = self.dialect.prompt(session.as_deref(), &prompt.id, &prompt.text);
            if line.bytes.len() > STDIN_BYTES_MAX {
                return Err(Outcome::failed(format!("a prompt of more than {STDIN_BYTES_MAX} bytes"), false));
            }
            self.tell(talk, Line { tag: prompt.id, ..line }).await?;
        }
        Ok(())
    }

    /// Says a line, unless the process has got it already.
    pub(super) async fn tell(&mut self, talk: &mut Talk<'_>, line: Line) -> Result<(), Fault> {
        let tag = tag_of(&line.tag);
        if !talk.told.insert(tag.clone()) {
            return Ok(());
        }
        match tokio::time::timeout(TAKE_WITHIN, talk.session.write_stdin(&line.bytes, &tag)).await {
            // That it has ended is read from its output's end.
            Ok(Ok(()) | Err(SessionError::Ended)) => Ok(()),
            Ok(Err(error)) => Err(Outcome::failed(format!("nothing can be said to its program: {error}"), true)),
            Err(_) => Err(Outcome::failed(
                format!("its program took nothing of what it was told for {} s", TAKE_WITHIN.as_secs()),
                true,
            )),
        }
    }

    pub(super) async fn obey(&mut self, talk: &mut Talk<'_>, order: Order) -> Result<Option<Step>, Fault> {
        let Order { what, reply } = order;
        let mut step = None;
        let answer = match what {
            Told::Answer { approval, decision, by, message } => match self.log.story.request_of(approval) {
                None => Err("it does not wait for this answer any more".to_owned()),
                Some(request) => {
                    let request = request.to_owned();
                    self.write(talk.run, talk.dealt, vec![What::Answered { request, decision, by, message }])?;
                    self.repeat_answers(talk).await?;
                    Ok(())
                }
            },
            Told::Message { id, text, by } => {
                if !self.log.story.prompts.iter().any(|prompt| prompt.id == id) {
                    self.write(talk.run, talk.dealt, vec![What::Prompted { id, text, by: Prompter::Person(by) }])?;
                    self.say_prompts(talk).await?;
                }
                Ok(())
            }
            Told::Interrupt { id, by } => {
                if self.log.story.rests().is_some() {
                    Err("it waits already; say what it is to do".to_owned())
                } else {
                    self.write(talk.run, talk.dealt, vec![What::Interrupted { by }])?;
                    self.interrupt(talk, &id).await?;
                    Ok(())
                }
            }
            Told::TakeOver { id, by } => match self.take_over(by) {
                Ok(taken) => {
                    self.withdraw_all().await;
                    self.write(talk.run, talk.dealt, vec![taken])?;
                    self.interrupt(talk, &id).await?;
                    step = Some(Step::TakenOver);
                    Ok(())
                }
                Err(why) => Err(why),
            },
            Told::GiveBack { .. } => Err("nobody has taken it over".to_owned()),
        };
        talk.last_word = Instant::now();
        // Dropped if nobody waits for it any more.
        let _ = reply.send(answer);
        Ok(step)
    }

    async fn interrupt(&mut self, talk: &mut Talk<'_>, id: &str) -> Result<(), Fault> {
        let line = self.dialect.interrupt(self.log.story.session.as_deref(), id);
        self.tell(talk, line).await?;
        let open: Vec<_> = self.log.story.open.iter().map(|(request, open)| (request.clone(), open.approval)).collect();
        for (request, approval) in open {
            let Some(line) = self.dialect.forget(&request) else { continue };
            self.tell(talk, line).await?;
            self.write(talk.run, talk.dealt, vec![What::Withdrawn { request }])?;
            self.attempt.shared.report(Report::Withdrawn { approval }).await;
        }
        Ok(())
    }

    /// Tells the program that it does not get on, the first time; the next time it is stopped.
    pub(super) async fn nudge(&mut self, talk: &mut Talk<'_>, why: String) -> Result<(), Fault> {
        if self.log.story.nudges > 0 {
            return Err(Outcome::failed(format!("it was stuck and stopped after a nudge: {why}"), true));
        }
        let text = format!("{GET_ON}: {why}. Try another way, or say what keeps you from it.");
        let prompt = What::Prompted { id: new_id(), text, by: Prompter::Hiveward };
        self.write(talk.run, talk.dealt, vec![What::Nudged { why }, prompt])?;
        self.interrupt(talk, &format!("nudge-{}", talk.run)).await?;
        talk.watch = Watch::default();
        talk.last_word = Instant::now();
        self.say_prompts(talk).await
    }
}
