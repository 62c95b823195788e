//! What the clients of a load send.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::client::{CANCEL, SUBMIT, SUBMIT_MANY};

/// A mutation that was sent, kept so that it can be sent again as it was.
#[derive(Clone, Debug)]
pub struct Sent {
    pub query: &'static str,
    pub input: Value,
}

impl Sent {
    pub fn is_cancel(&self) -> bool {
        self.query == CANCEL
    }
}

/// Makes one client's operations.
pub struct Maker {
    pub dice: fastrand::Rng,
    pub swarm: &'static str,
    /// With it, some tasks run programs that append to that file.
    pub marks: Option<PathBuf>,
    /// Its newest tasks, to cancel some.
    pub own: Vec<String>,
}

impl Maker {
    pub fn next(&mut self, operation: &str) -> Sent {
        let noop = json!({ "kind": "noop", "priority": self.dice.choice(["LOW", "NORMAL", "HIGH", "CRITICAL"]).unwrap() });
        let mut input = noop.clone();
        let query = match self.dice.u8(..100) {
            0..70 => SUBMIT,
            70..80 => {
                // The second waits for the first.
                let second = json!({ "kind": "noop", "dependsOn": ["a"] });
                let mut first = noop;
                first["name"] = "a".into();
                input = json!({ "tasks": [first, second, { "kind": "noop" }] });
                SUBMIT_MANY
            }
            80..90 if !self.own.is_empty() => {
                let task = self.own.swap_remove(self.dice.usize(..self.own.len()));
                return Sent { query: CANCEL, input: json!({ "operationId": operation, "task": task }) };
            }
            90..97 => {
                input["delayMs"] = self.dice.i32(1..500).into();
                SUBMIT
            }
            _ => match &self.marks {
                Some(marks) => {
                    let line = format!(
                        "echo \"$HIVEWARD_TASK $HIVEWARD_ATTEMPT\" >> {}; sleep 0.0{}",
                        marks.display(),
                        self.dice.u8(..9)
                    );
                    let input = json!({ "operationId": operation, "command": { "argv": ["sh", "-c", line] } });
                    return Sent { query: SUBMIT, input };
                }
                None => SUBMIT,
            },
        };
        input["operationId"] = operation.into();
        input["swarm"] = self.swarm.into();
        Sent { query, input }
    }
}

/// The tasks that an answer names.
pub fn ids(data: &Value) -> Vec<String> {
    let task = |task: &Value| task["id"].as_str().unwrap().to_owned();
    if data["submitTask"].is_object() {
        vec![task(&data["submitTask"]["task"])]
    } else if data["submitTasks"].is_object() {
        data["submitTasks"]["tasks"].as_array().unwrap().iter().map(task).collect()
    } else {
        vec![task(&data["cancelTask"]["task"])]
    }
}

/// The cursor of a mutation's answer.
pub fn cursor(data: &Value) -> Option<&str> {
    ["submitTask", "submitTasks", "cancelTask"].iter().find_map(|field| data[*field]["cursor"].as_str())
}
