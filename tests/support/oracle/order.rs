//! Tasks that carry something, and what must come of it: both made from one seed, so that only that is kept.

use std::{path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::body::{BodySum, Letters, SentBody, cksum};
use crate::client::{SCATTER, SUBMIT, SUBMIT_MANY};

/// What is larger goes to a dependent as a file of its own.
const INPUT_BYTES_MAX: usize = 20_000;
/// Above it standard output is an artifact and no result.
const RESULT_BYTES_MAX: usize = 1 << 20;

/// What a submission asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// A payload, for agents that only take it.
    Payload,
    /// Several at once, with payloads.
    Payloads,
    /// A program that gives its standard input back: as result, in its transcript, perhaps as an artifact and past a gate.
    Echo,
    /// As `Echo`, of bytes that are no text.
    Garbage,
    /// A program that says its result in the protocol.
    Says,
    /// A program, and one that gets its result.
    After,
    /// A program whose result is a plan of two, of which one gets the other's result.
    Plan,
    /// Some parts, and their results gathered.
    Scatter,
    /// Some parts, and a program that gets their results.
    Reduce,
    /// Some parts with payloads.
    ScatterPayloads,
}

/// One submission whose tasks carry something.
#[derive(Clone, Debug)]
pub struct Order {
    kind: OrderKind,
    operation: String,
    /// Of agents that take payloads; programs run in the swarm that is there by itself.
    swarm: &'static str,
    seed: u64,
    /// Where each run of a program leaves a line.
    marks: Option<Arc<Path>>,
}

/// How a result is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedResult {
    Nothing,
    Text(BodySum),
    /// As [`normal`] makes it.
    Json(BodySum),
}

/// What must be seen of a task that has succeeded; of one that has not, what it was given.
#[derive(Clone, Debug)]
pub struct WantedTask {
    /// Its name among the subtasks of what it came from; empty if a client submitted it.
    pub name: String,
    /// As [`normal`] makes it.
    pub payload: Option<BodySum>,
    pub stdin: Option<BodySum>,
    pub result: WantedResult,
    pub artifacts: Vec<(String, BodySum)>,
    /// Standard output and error of its last attempt; none if no program runs.
    pub output: Option<[BodySum; 2]>,
    pub subtasks: Vec<WantedTask>,
}

impl WantedTask {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            payload: None,
            stdin: None,
            result: WantedResult::Nothing,
            artifacts: Vec::new(),
            output: None,
            subtasks: Vec::new(),
        }
    }

    fn with_payload(name: &str, payload: &Value) -> Self {
        Self { payload: Some(normal_sum(payload)), ..Self::new(name) }
    }
}

/// JSON without what nobody can foresee, which is ids and titles. Text that is a JSON array or object is read as that.
pub fn normal(value: &Value) -> Value {
    match value {
        Value::Array(all) => all.iter().map(normal).collect(),
        Value::Object(all) => {
            let known = all.iter().filter(|(key, _)| !matches!(key.as_str(), "task" | "title"));
            Value::Object(known.map(|(key, value)| (key.clone(), normal(value))).collect())
        }
        Value::String(text) if text.starts_with(['[', '{']) => match serde_json::from_str(text) {
            Ok(read) => normal(&read),
            Err(_) => value.clone(),
        },
        _ => value.clone(),
    }
}

pub fn normal_sum(value: &Value) -> BodySum {
    BodySum::of(normal(value).to_string())
}

/// Text as a result; no text is none.
fn text_result(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// What a program made, and what was wanted of it.
struct Program {
    input: Value,
    wanted: WantedTask,
}

impl Order {
    pub fn draw(dice: &mut fastrand::Rng, operation: &str, swarm: &'static str, marks: Option<Arc<Path>>) -> Self {
        use OrderKind::{After, Echo, Garbage, Payload, Payloads, Plan, Reduce, Says, Scatter, ScatterPayloads};
        let kind = match dice.u8(..100) {
            0..40 => Payload,
            40..55 => Payloads,
            55..62 => ScatterPayloads,
            62..78 => Echo,
            78..85 => Garbage,
            85..88 => Says,
            88..91 => After,
            91..94 => Plan,
            94..97 => Scatter,
            _ => Reduce,
        };
        Self { kind, operation: operation.to_owned(), swarm, seed: dice.u64(..), marks }
    }

    pub fn query(&self) -> &'static str {
        match self.kind {
            OrderKind::Payloads | OrderKind::After => SUBMIT_MANY,
            OrderKind::Scatter | OrderKind::Reduce | OrderKind::ScatterPayloads => SCATTER,
            _ => SUBMIT,
        }
    }

    /// Whether it is one task, of which nothing else is made.
    pub fn is_alone(&self) -> bool {
        self.query() == SUBMIT && self.kind != OrderKind::Plan
    }

    /// Whether each task that a client is told of runs a program that leaves a line.
    pub fn leaves_marks(&self) -> bool {
        use OrderKind::{After, Echo, Garbage, Plan, Says};
        self.marks.is_some() && matches!(self.kind, After | Echo | Garbage | Plan | Says)
    }

    pub fn input(&self) -> Value {
        self.make().0
    }

    /// Of the tasks that the answer names, in that order; the parts of a scatter are among the subtasks of its first.
    pub fn wanted(&self) -> Vec<WantedTask> {
        self.make().1
    }

    fn make(&self) -> (Value, Vec<WantedTask>) {
        let mut dice = fastrand::Rng::with_seed(self.seed);
        let (mut input, wanted) = match self.kind {
            OrderKind::Payload => payload(&mut dice),
            OrderKind::Payloads => payloads(&mut dice),
            OrderKind::Echo => self.alone(self.echo(&mut dice, "", usize::MAX)),
            OrderKind::Garbage => self.alone(self.garbage(&mut dice)),
            OrderKind::Says => self.alone(self.says(&mut dice)),
            OrderKind::After => self.after(&mut dice),
            OrderKind::Plan => self.plan(&mut dice),
            OrderKind::Scatter | OrderKind::Reduce => self.scatter(&mut dice),
            OrderKind::ScatterPayloads => scatter_payloads(&mut dice),
        };
        input["operationId"] = self.operation.clone().into();
        if matches!(self.kind, OrderKind::Payload | OrderKind::Payloads | OrderKind::ScatterPayloads) {
            input["swarm"] = self.swarm.into();
        }
        (input, wanted)
    }

    fn alone(&self, program: Program) -> (Value, Vec<WantedTask>) {
        (program.input, vec![program.wanted])
    }

    /// `sh` with the line that leaves a mark, if one is wanted, before the script.
    fn command(&self, dice: &mut fastrand::Rng, script: &str) -> Value {
        let mark = match &self.marks {
            Some(marks) => format!("echo \"$HIVEWARD_TASK $HIVEWARD_ATTEMPT\" >> {}; ", marks.display()),
            None => String::new(),
        };
        json!({ "argv": ["sh", "-c", format!("{mark}sleep 0.0{}; {script}", dice.u8(..9))] })
    }

    fn echo(&self, dice: &mut fastrand::Rng, name: &str, bytes_max: usize) -> Program {
        let letters = if dice.bool() { Letters::Ascii } else { Letters::Text };
        let body = SentBody::draw(dice, letters, bytes_max);
        let text = body.text();
        // So that there is more than a result may have.
        let twice = body.bytes() * 2 > RESULT_BYTES_MAX && dice.bool();
        let kept = dice.bool();
        let said = if dice.bool() { body.bytes().min(300) } else { 0 };
        let mut script = String::from("cat > made; ");
        if kept {
            script.push_str(SAY_MADE);
        }
        script.push_str(&format!("head -c {said} made >&2; cat made"));
        if twice {
            script.push_str(" made");
        }
        let mut command = self.command(dice, &script);
        command["stdin"] = text.clone().into();
        let out = format!("{}{}{}", if kept { MADE_SAID } else { "" }, text, if twice { &text } else { "" });
        let mut wanted = WantedTask {
            stdin: Some(BodySum::of(&text)),
            output: Some([BodySum::of(&out), BodySum::of(&text.as_bytes()[..said])]),
            ..WantedTask::new(name)
        };
        if kept {
            wanted.artifacts.push(("made".into(), BodySum::of(&text)));
        }
        if twice {
            wanted.artifacts.push(("stdout".into(), BodySum::of(&out)));
        } else if !text.is_empty() {
            wanted.result = WantedResult::Text(BodySum::of(&text));
        }
        let mut input = json!({ "command": command });
        if dice.bool() && !twice {
            // It is given the result as it is kept, which is JSON.
            let given = if text.is_empty() { Vec::new() } else { serde_json::to_vec(&text).unwrap() };
            let passes = format!("test \"$(cksum)\" = '{}'", cksum(&given));
            input["gate"] = json!({ "name": "sum", "command": { "argv": ["sh", "-c", passes] } });
        }
        Program { input, wanted }
    }

    fn garbage(&self, dice: &mut fastrand::Rng) -> Program {
        let body = SentBody::draw(dice, Letters::Bytes, usize::MAX).make();
        let mut command = self.command(dice, &format!("base64 -d > made; {SAY_MADE}cat made"));
        let stdin = BASE64.encode(&body);
        command["stdin"] = stdin.clone().into();
        let out = BodySum::of([MADE_SAID.as_bytes(), &body].concat());
        let mut artifacts = vec![("made".to_owned(), BodySum::of(&body))];
        if !body.is_empty() {
            artifacts.push(("stdout".to_owned(), out));
        }
        let output = Some([out, BodySum::of("")]);
        let wanted = WantedTask { stdin: Some(BodySum::of(&stdin)), artifacts, output, ..WantedTask::new("") };
        Program { input: json!({ "command": command }), wanted }
    }

    fn says(&self, dice: &mut fastrand::Rng) -> Program {
        let text = SentBody::draw(dice, Letters::Text, 300_000).text();
        let value = json!({ "count": text.len(), "text": text, "list": [null, true, "é"] });
        let mut command =
            self.command(dice, "printf '{\"hiveward\":\"result\",\"value\":'; cat; printf '}\\n'; echo 'not the result'");
        command["stdin"] = value.to_string().into();
        let out = format!("{{\"hiveward\":\"result\",\"value\":{value}}}\nnot the result\n");
        let wanted = WantedTask {
            stdin: Some(BodySum::of(value.to_string())),
            result: WantedResult::Json(normal_sum(&value)),
            output: Some([BodySum::of(out), BodySum::of("")]),
            ..WantedTask::new("")
        };
        Program { input: json!({ "command": command }), wanted }
    }

    /// A program that shows the results it was given.
    fn shows_inputs(&self, dice: &mut fastrand::Rng, name: &str, inputs: &[Value]) -> Program {
        let shown: Value = inputs.iter().map(|result| json!({ "status": "SUCCEEDED", "result": result })).collect();
        let command = self.command(dice, "cat \"$HIVEWARD_INPUTS\"");
        let wanted = WantedTask { result: WantedResult::Json(normal_sum(&shown)), ..WantedTask::new(name) };
        Program { input: json!({ "command": command }), wanted }
    }

    fn pair(&self, dice: &mut fastrand::Rng) -> [(Program, Value); 2] {
        // The same dice again, to know what it sends.
        let text = self.echoed(dice.clone(), INPUT_BYTES_MAX);
        let mut one = self.echo(dice, "one", INPUT_BYTES_MAX);
        let mut two = self.shows_inputs(dice, "two", &[text_result(&text)]);
        one.input["name"] = "one".into();
        two.input["name"] = "two".into();
        two.input["dependsOn"] = json!(["one"]);
        let shown = json!([{ "status": "SUCCEEDED", "result": text_result(&text) }]);
        [(one, text_result(&text)), (two, shown)]
    }

    /// What [`Order::echo`] sends by these dice.
    fn echoed(&self, mut dice: fastrand::Rng, bytes_max: usize) -> String {
        let letters = if dice.bool() { Letters::Ascii } else { Letters::Text };
        SentBody::draw(&mut dice, letters, bytes_max).text()
    }

    fn after(&self, dice: &mut fastrand::Rng) -> (Value, Vec<WantedTask>) {
        let [(one, _), (two, _)] = self.pair(dice);
        (json!({ "tasks": [one.input, two.input] }), vec![one.wanted, two.wanted])
    }

    fn plan(&self, dice: &mut fastrand::Rng) -> (Value, Vec<WantedTask>) {
        let [(one, first), (two, second)] = self.pair(dice);
        let plan = json!({ "tasks": [one.input, two.input] }).to_string();
        let mut command = self.command(dice, "cat");
        command["stdin"] = plan.clone().into();
        let made = json!([
            { "name": "one", "status": "SUCCEEDED", "result": first },
            { "name": "two", "status": "SUCCEEDED", "result": second },
        ]);
        let wanted = WantedTask {
            stdin: Some(BodySum::of(&plan)),
            result: WantedResult::Json(normal_sum(&made)),
            output: Some([BodySum::of(&plan), BodySum::of("")]),
            subtasks: vec![one.wanted, two.wanted],
            ..WantedTask::new("")
        };
        (json!({ "command": command, "plan": { "aggregate": "COLLECT", "subtasksMax": 2 } }), vec![wanted])
    }

    fn scatter(&self, dice: &mut fastrand::Rng) -> (Value, Vec<WantedTask>) {
        // An environment holds no zero byte.
        let item = |dice: &mut fastrand::Rng| SentBody::draw(dice, Letters::Text, INPUT_BYTES_MAX).text().replace('\0', "0");
        let items: Vec<String> = (0..dice.usize(1..=3)).map(|_| item(dice)).collect();
        let results: Vec<Value> = items.iter().map(|item| text_result(item)).collect();
        let part = self.command(dice, &format!("printf %s \"$HIVEWARD_ITEM\" > made; {SAY_MADE}cat made"));
        let mut wanted = WantedTask::new("");
        wanted.subtasks.extend(items.iter().enumerate().map(|(n, item)| WantedTask {
            result: if item.is_empty() { WantedResult::Nothing } else { WantedResult::Text(BodySum::of(item)) },
            artifacts: vec![("made".into(), BodySum::of(item))],
            output: Some([BodySum::of(format!("{MADE_SAID}{item}")), BodySum::of("")]),
            ..WantedTask::new(&n.to_string())
        }));
        let names: Vec<String> = (0..items.len()).map(|n| n.to_string()).collect();
        let mut input = json!({ "items": items, "part": { "command": part } });
        let gathered: Value = if self.kind == OrderKind::Reduce {
            let reduce = self.shows_inputs(dice, "reduce", &results);
            input["reduce"] = reduce.input;
            wanted.subtasks.push(reduce.wanted);
            results.iter().map(|result| json!({ "status": "SUCCEEDED", "result": result })).collect()
        } else {
            input["aggregate"] = "COLLECT".into();
            collected(&names, &results)
        };
        let said = json!({ "result": gathered, "in": names, "failed": [], "late": [] });
        wanted.result = WantedResult::Json(normal_sum(&said));
        (input, vec![wanted])
    }
}

/// Says that the file `made` is an artifact, before anything that may have no end of line.
const SAY_MADE: &str = "echo '{\"hiveward\":\"artifact\",\"name\":\"made\",\"path\":\"made\"}'; ";
const MADE_SAID: &str = "{\"hiveward\":\"artifact\",\"name\":\"made\",\"path\":\"made\"}\n";

fn collected(names: &[String], results: &[Value]) -> Value {
    let one = |(name, result): (&String, &Value)| json!({ "name": name, "status": "SUCCEEDED", "result": result });
    names.iter().zip(results).map(one).collect()
}

/// Text, or an object with text in it.
fn some_payload(dice: &mut fastrand::Rng, bytes_max: usize) -> Value {
    let letters = if dice.bool() { Letters::Ascii } else { Letters::Text };
    let text = SentBody::draw(dice, letters, bytes_max).text();
    if dice.bool() { text.into() } else { json!({ "text": text, "n": 1 }) }
}

fn payload(dice: &mut fastrand::Rng) -> (Value, Vec<WantedTask>) {
    let payload = some_payload(dice, usize::MAX);
    let wanted = WantedTask::with_payload("", &payload);
    (json!({ "kind": "noop", "payload": payload }), vec![wanted])
}

fn payloads(dice: &mut fastrand::Rng) -> (Value, Vec<WantedTask>) {
    let all: Vec<Value> = (0..dice.usize(2..=4)).map(|_| some_payload(dice, 70_000)).collect();
    let wanted = all.iter().map(|payload| WantedTask::with_payload("", payload)).collect();
    let tasks: Vec<Value> = all.into_iter().map(|payload| json!({ "kind": "noop", "payload": payload })).collect();
    (json!({ "tasks": tasks }), wanted)
}

fn scatter_payloads(dice: &mut fastrand::Rng) -> (Value, Vec<WantedTask>) {
    let items: Vec<Value> = (0..dice.usize(1..=3)).map(|_| some_payload(dice, 70_000)).collect();
    let given = dice.bool();
    let mut part = json!({ "kind": "noop" });
    if given {
        part["payload"] = json!({ "of": "all" });
    }
    let names: Vec<String> = (0..items.len()).map(|n| n.to_string()).collect();
    let nothing = vec![Value::Null; items.len()];
    let said = json!({ "result": collected(&names, &nothing), "in": names, "failed": [], "late": [] });
    let mut wanted = WantedTask { result: WantedResult::Json(normal_sum(&said)), ..WantedTask::new("") };
    for (name, item) in names.iter().zip(&items) {
        let payload = if given { json!({ "of": "all", "item": item }) } else { item.clone() };
        wanted.subtasks.push(WantedTask::with_payload(name, &payload));
    }
    (json!({ "items": items, "part": part, "aggregate": "COLLECT" }), vec![wanted])
}
