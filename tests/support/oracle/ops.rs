//! What the clients of a load send.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};

use super::order::{Order, WantedTask};
use crate::client::{CANCEL, SUBMIT, SUBMIT_MANY};

/// A mutation that was sent, kept so that it can be sent again as it was.
#[derive(Clone, Debug)]
pub struct Sent {
    pub query: &'static str,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Plain(Value),
    /// What it carries is made again each time.
    Order(Order),
}

impl Sent {
    pub fn plain(query: &'static str, input: Value) -> Self {
        Self { query, what: What::Plain(input) }
    }

    pub fn variables(&self) -> Value {
        let input = match &self.what {
            What::Plain(input) => input.clone(),
            What::Order(order) => order.input(),
        };
        json!({ "i": input })
    }

    pub fn is_cancel(&self) -> bool {
        self.query == CANCEL
    }

    /// Whether it is one task that may be cancelled without any other being so.
    pub fn is_alone(&self) -> bool {
        match &self.what {
            What::Plain(_) => self.query == SUBMIT,
            What::Order(order) => order.is_alone(),
        }
    }

    /// Whether each of its tasks runs a program that leaves a mark.
    pub fn leaves_marks(&self) -> bool {
        matches!(&self.what, What::Order(order) if order.leaves_marks())
    }

    /// What must be seen of each of its tasks; nothing if they carry nothing.
    pub fn wanted(&self) -> Vec<WantedTask> {
        match &self.what {
            What::Plain(_) => Vec::new(),
            What::Order(order) => order.wanted(),
        }
    }

    pub fn carries(&self) -> bool {
        matches!(self.what, What::Order(_))
    }
}

/// Of a client's own tasks, the newest are those that it cancels some of.
const CANCELLED_AMONG: usize = 8;

/// Makes one client's operations.
pub struct Maker {
    pub dice: fastrand::Rng,
    pub swarm: &'static str,
    /// With it, programs append to that file.
    pub marks: Option<Arc<Path>>,
    /// Its newest tasks, to cancel some.
    pub own: Vec<String>,
}

impl Maker {
    pub fn next(&mut self, operation: &str) -> Sent {
        let noop = json!({ "kind": "noop", "priority": self.dice.choice(["LOW", "NORMAL", "HIGH", "CRITICAL"]).unwrap() });
        let mut input = noop.clone();
        let query = match self.dice.u8(..100) {
            0..65 => SUBMIT,
            65..72 => {
                // The second waits for the first.
                let second = json!({ "kind": "noop", "dependsOn": ["a"] });
                let mut first = noop;
                first["name"] = "a".into();
                input = json!({ "tasks": [first, second, { "kind": "noop" }] });
                SUBMIT_MANY
            }
            72..81 if !self.own.is_empty() => {
                // Among the last, which may not have ended yet.
                let newest = self.own.len().saturating_sub(CANCELLED_AMONG);
                let task = self.own.swap_remove(self.dice.usize(newest..self.own.len()));
                return Sent::plain(CANCEL, json!({ "operationId": operation, "task": task }));
            }
            81..87 => {
                input["delayMs"] = self.dice.i32(1..500).into();
                SUBMIT
            }
            _ => {
                let order = Order::draw(&mut self.dice, operation, self.swarm, self.marks.clone());
                return Sent { query: order.query(), what: What::Order(order) };
            }
        };
        input["operationId"] = operation.into();
        input["swarm"] = self.swarm.into();
        Sent::plain(query, input)
    }
}

const MUTATIONS: [&str; 4] = ["submitTask", "submitTasks", "scatter", "cancelTask"];

/// The tasks that an answer names; of a scatter, the one that gathers: its parts came with it.
pub fn ids(data: &Value) -> Vec<String> {
    let id = |task: &Value| task["id"].as_str().unwrap().to_owned();
    let answer = MUTATIONS.iter().map(|field| &data[*field]).find(|answer| answer.is_object()).unwrap();
    if let Some(tasks) = answer["tasks"].as_array() {
        return tasks.iter().map(id).collect();
    }
    vec![id(&answer["task"])]
}

/// The cursor of a mutation's answer.
pub fn cursor(data: &Value) -> Option<&str> {
    MUTATIONS.iter().find_map(|field| data[*field]["cursor"].as_str())
}
