//! Decides whether a coding agent still gets on. Pure.

use super::dialect::Heard;

/// Number of uses of the same tool with the same input and the same result, one after the other.
const SAME_ACTIONS_MAX: u32 = 5;
/// Number of tools that fail with the same words, one after the other.
const SAME_ERRORS_MAX: u32 = 5;
/// Number of things said without doing anything in between.
const WORDS_MAX: u32 = 40;

/// Watch over one process. It says once why that seems stuck, then begins to count anew.
#[derive(Debug, Default)]
pub(super) struct Watch {
    action: Option<String>,
    result: Option<String>,
    same_actions: u32,
    error: Option<String>,
    same_errors: u32,
    words: u32,
}

impl Watch {
    pub(super) fn see(&mut self, heard: &Heard) -> Option<String> {
        match heard {
            Heard::Said { .. } => {
                self.words += 1;
                if self.words > WORDS_MAX {
                    *self = Self::default();
                    return Some(format!("it said {WORDS_MAX} things without doing one"));
                }
            }
            Heard::ToolCalled { tool, input, .. } => {
                self.words = 0;
                let action = format!("{tool} {input}");
                if self.action.as_deref() != Some(&*action) {
                    self.action = Some(action);
                    self.result = None;
                    self.same_actions = 0;
                }
            }
            Heard::ToolEnded { failed, output, .. } => {
                if self.result.as_deref() == Some(&**output) {
                    self.same_actions += 1;
                } else {
                    self.result = Some(output.clone());
                    self.same_actions = 1;
                }
                if *failed && self.error.as_deref() == Some(&**output) {
                    self.same_errors += 1;
                } else {
                    self.error = failed.then(|| output.clone());
                    self.same_errors = u32::from(*failed);
                }
                if self.same_actions >= SAME_ACTIONS_MAX {
                    *self = Self::default();
                    return Some(format!("it did the same {SAME_ACTIONS_MAX} times with the same result"));
                }
                if self.same_errors >= SAME_ERRORS_MAX {
                    *self = Self::default();
                    return Some(format!("it ran into the same error {SAME_ERRORS_MAX} times"));
                }
            }
            Heard::Prompt { .. } => self.words = 0,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn act(watch: &mut Watch, input: u32, output: &str, failed: bool) -> Option<String> {
        let called = Heard::ToolCalled { id: "1".into(), tool: "Bash".into(), input: json!({"command": input}) };
        let ended = Heard::ToolEnded { id: "1".into(), failed, output: output.into() };
        watch.see(&called).or_else(|| watch.see(&ended))
    }

    #[test]
    fn the_same_action_with_the_same_result_is_noticed_and_one_that_changes_is_not() {
        let mut watch = Watch::default();
        let said: Vec<_> = (0..SAME_ACTIONS_MAX).filter_map(|_| act(&mut watch, 1, "no", false)).collect();
        assert_eq!(said, ["it did the same 5 times with the same result"]);
        assert!((0..50).all(|n| act(&mut watch, 1, &format!("{n} of 50 pass"), false).is_none()), "it gets on");
        assert!((0..50).all(|n| act(&mut watch, n, "ok", false).is_none()), "different things may have one result");
    }

    #[test]
    fn the_same_error_of_different_actions_is_noticed() {
        let mut watch = Watch::default();
        let said: Vec<_> = (0..SAME_ERRORS_MAX).filter_map(|n| act(&mut watch, n, "no such file", true)).collect();
        assert_eq!(said, ["it ran into the same error 5 times"]);
    }

    #[test]
    fn talk_without_action_is_noticed_once() {
        let mut watch = Watch::default();
        let talk = Heard::Said { text: "let me think".into() };
        assert_eq!((0..=WORDS_MAX).filter_map(|_| watch.see(&talk)).count(), 1);
    }
}
