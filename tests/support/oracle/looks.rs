//! Looks at tasks as a client can: what they were given, their results, every byte of their artifacts, their transcripts.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{StreamExt, future::LocalBoxFuture, stream};
use serde_json::{Value, json};

use super::{
    Broken,
    bodies::{ShownArtifact, ShownTask, compare},
    body::BodySum,
    ops::Sent,
    order::WantedTask,
};
use crate::Client;

/// How long a node is asked again before what it does not give counts as lost.
const ASKED_FOR: Duration = Duration::from_secs(20);
const ASK_AGAIN: Duration = Duration::from_millis(50);
const TASKS_AT_ONCE: usize = 6;
/// Nobody reads more of what is wrong than this.
const BROKEN_MAX: usize = 20;

const TASK: &str = "query($id:ID!){node(id:$id){...on Task{id status payload command{stdin} resultText artifacts{name hash} \
                    subtasks{id nameInPlan}}}}";
const CONTENT: &str =
    "query($id:ID!,$b:BigInt!){node(id:$id){...on Task{artifacts{name content(fromByte:$b){base64 nextByte atEnd}}}}}";
const OUTPUT: &str = "subscription($t:ID!){taskOutput(task:$t){stream base64 atEnd}}";

/// An operation that carries something, and the tasks that its answer named.
pub type Carried = (String, Sent, Vec<String>);

/// How much was looked at and compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookedAt {
    pub tasks: usize,
    /// Payloads, standard inputs and results.
    pub bodies: usize,
    pub artifacts: usize,
    pub transcripts: usize,
    pub bytes: usize,
}

impl LookedAt {
    pub fn add(&mut self, other: Self) {
        self.tasks += other.tasks;
        self.bodies += other.bodies;
        self.artifacts += other.artifacts;
        self.transcripts += other.transcripts;
        self.bytes += other.bytes;
    }

    fn count(&mut self, shown: &ShownTask) {
        self.tasks += 1;
        let payload = (!shown.payload.is_null()).then(|| shown.payload.to_string().len());
        let bodies = [payload, shown.stdin.as_ref().map(String::len), shown.result.as_ref().map(String::len)];
        self.bodies += bodies.iter().flatten().count();
        self.artifacts += shown.artifacts.len();
        self.transcripts += usize::from(shown.output.is_some());
        self.bytes += bodies.iter().flatten().sum::<usize>();
        self.bytes += shown.artifacts.values().map(|artifact| artifact.bytes.bytes).sum::<usize>();
        self.bytes += shown.output.iter().flatten().map(|sum| sum.bytes).sum::<usize>();
        shown.subtasks.iter().for_each(|task| self.count(task));
    }
}

/// Looks at everything that these operations carry, as this node shows it. Transcripts are where their programs ran: without
/// `transcripts` they are left out.
pub async fn look_at_all(client: &Client, node: usize, carried: Vec<Carried>, transcripts: bool) -> (Vec<Broken>, LookedAt) {
    let tasks = carried.into_iter().flat_map(|(operation, sent, tasks)| {
        let wanted = sent.wanted();
        tasks.into_iter().zip(wanted).map(move |(task, wanted)| (operation.clone(), task, wanted))
    });
    let looks = tasks.map(|(operation, task, wanted)| async move {
        match look(client, &task, &wanted, transcripts).await {
            Ok(shown) => {
                let mut looked_at = LookedAt::default();
                looked_at.count(&shown);
                (compare(node, &operation, &wanted, &shown, transcripts), looked_at)
            }
            Err((what, why)) => (vec![Broken::BodyUnreadable { node, operation, task, what, why }], LookedAt::default()),
        }
    });
    let mut looks = std::pin::pin!(stream::iter(looks).buffer_unordered(TASKS_AT_ONCE));
    let (mut broken, mut looked_at) = (Vec::new(), LookedAt::default());
    while let Some((more, one)) = looks.next().await {
        broken.extend(more);
        looked_at.add(one);
        if broken.len() >= BROKEN_MAX {
            break;
        }
    }
    (broken, looked_at)
}

/// What could not be had, and why.
type Unseen = (String, String);

fn look<'a>(
    client: &'a Client,
    id: &'a str,
    wanted: &'a WantedTask,
    transcripts: bool,
) -> LocalBoxFuture<'a, Result<ShownTask, Unseen>> {
    Box::pin(async move {
        let task = asked("the task", async || {
            let data = client.call(TASK, json!({ "id": id })).await.map_err(|failed| format!("{failed:?}"))?;
            data["node"].is_object().then(|| data["node"].clone()).ok_or_else(|| "there is no such task".to_owned())
        })
        .await?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut shown = ShownTask {
            id: id.to_owned(),
            status: text(&task["status"]).unwrap_or_default(),
            payload: task["payload"].clone(),
            stdin: text(&task["command"]["stdin"]),
            result: text(&task["resultText"]),
            ..ShownTask::default()
        };
        if shown.status != "SUCCEEDED" {
            return Ok(shown);
        }
        if let Some(artifacts) = task["artifacts"].as_array().filter(|all| !all.is_empty()) {
            let hashes = artifacts.iter().map(|artifact| (text(&artifact["name"]), text(&artifact["hash"])));
            let hashes: BTreeMap<String, String> = hashes.filter_map(|(name, hash)| Some((name?, hash?))).collect();
            let contents = asked("its artifacts", async || contents(client, id).await).await?;
            shown.artifacts = hashes
                .into_iter()
                .map(|(name, hash)| {
                    let bytes = BodySum::of(contents.get(&name).map_or(&[][..], Vec::as_slice));
                    (name, ShownArtifact { hash, bytes })
                })
                .collect();
        }
        if transcripts && wanted.output.is_some() {
            shown.output = Some(asked("its transcript", async || output(client, id).await).await?);
        }
        for part in task["subtasks"].as_array().into_iter().flatten() {
            let (id, name) = (text(&part["id"]).unwrap_or_default(), text(&part["nameInPlan"]).unwrap_or_default());
            if let Some(wanted) = wanted.subtasks.iter().find(|wanted| wanted.name == name) {
                shown.subtasks.push(ShownTask { name, ..look(client, &id, wanted, transcripts).await? });
            }
        }
        Ok(shown)
    })
}

/// Asks until there is an answer, or it has been asked for long enough.
async fn asked<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> Result<T, Unseen> {
    let began = tokio::time::Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(why) if began.elapsed() > ASKED_FOR => return Err((what.to_owned(), why)),
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

/// Every artifact of a task, whole, by name.
pub async fn contents(client: &Client, id: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut read: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut from = 0;
    loop {
        let data =
            client.call(CONTENT, json!({ "id": id, "b": from.to_string() })).await.map_err(|failed| format!("{failed:?}"))?;
        let (mut more, mut ended) = (false, true);
        for artifact in data["node"]["artifacts"].as_array().into_iter().flatten() {
            let (name, piece) = (artifact["name"].as_str().unwrap_or_default(), &artifact["content"]);
            let bytes = BASE64.decode(piece["base64"].as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
            more |= !bytes.is_empty();
            ended &= piece["atEnd"] == true;
            read.entry(name.to_owned()).or_default().extend(bytes);
        }
        if ended {
            return Ok(read);
        }
        if !more {
            return Err(format!("its artifacts end at byte {from}, and it is said that they go on"));
        }
        from = read.values().map(Vec::len).max().unwrap_or_default();
    }
}

/// All that its last attempt wrote to standard output and error.
pub async fn output(client: &Client, id: &str) -> Result<[BodySum; 2], String> {
    let mut chunks = client.subscribe(OUTPUT, json!({ "t": id }), None).await.map_err(|failed| format!("{failed:?}"))?;
    let mut read = [Vec::new(), Vec::new()];
    loop {
        let answer = tokio::time::timeout(ASKED_FOR, chunks.try_next()).await.map_err(|_| "it does not go on".to_owned())?;
        let data = answer.ok_or("it breaks off")?.map_err(|refused| refused.to_string())?;
        let chunk = &data["taskOutput"];
        let bytes = BASE64.decode(chunk["base64"].as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
        read[usize::from(chunk["stream"] == "STDERR")].extend(bytes);
        if chunk["atEnd"] == true {
            return Ok([BodySum::of(&read[0]), BodySum::of(&read[1])]);
        }
    }
}
