//! GraphQL over HTTP as a careful client speaks it: an answer is an answer, and everything else may have happened.

use std::time::Duration;

use serde_json::{Value, json};

use crate::stream::Events;

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub url: String,
    pub token: String,
    pub http: reqwest::Client,
    /// How long a call may take.
    pub patience: Duration,
}

#[derive(Debug)]
pub enum CallFailed {
    /// No answer, or one that says so: it may have happened.
    Unknown(String),
    /// It did not happen.
    Refused { code: String, retryable: bool, field: Option<String>, message: String },
}

impl CallFailed {
    pub fn code(&self) -> &str {
        match self {
            Self::Unknown(_) => "UNKNOWN_OUTCOME",
            Self::Refused { code, .. } => code,
        }
    }

    pub fn message(&self) -> &str {
        match self {
            Self::Unknown(message) | Self::Refused { message, .. } => message,
        }
    }
}

const CALL_PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub const SUBMIT: &str = "mutation($i:SubmitTaskInput!){submitTask(input:$i){cursor task{id}}}";
pub const SUBMIT_MANY: &str = "mutation($i:SubmitTasksInput!){submitTasks(input:$i){cursor tasks{id}}}";
pub const SCATTER: &str = "mutation($i:ScatterInput!){scatter(input:$i){cursor task{id}}}";
pub const CANCEL: &str = "mutation($i:CancelTaskInput!){cancelTask(input:$i){cursor task{id status}}}";
pub const CREATE_AGENT: &str = "mutation($i:CreateAgentInput!){createAgent(input:$i){cursor agent{id}}}";
pub const REMOVE_AGENT: &str = "mutation($i:RemoveAgentInput!){removeAgent(input:$i){cursor}}";
pub const REMOVE_VM: &str = "mutation($i:RemoveVmInput!){removeVm(input:$i){cursor}}";
pub const REMOVE_SWARM: &str = "mutation($i:RemoveSwarmInput!){removeSwarm(input:$i){cursor}}";
pub const CREATE_SWARM: &str = "mutation($i:CreateSwarmInput!){createSwarm(input:$i){cursor swarm{id}}}";
pub const INJECT: &str = "mutation($i:InjectFaultInput!){injectFault(input:$i){points{point}}}";
const TASK: &str =
    "query($id:ID!){node(id:$id){...on Task{id status resultText error cursor attempts{number status exitCode error agentId}}}}";

impl Client {
    pub fn new(url: String, token: String) -> Self {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(5)).build().unwrap();
        Self { url, token, http, patience: CALL_PATIENCE }
    }

    /// The data of an answer without errors.
    pub async fn call(&self, query: &str, variables: Value) -> Result<Value, CallFailed> {
        self.send(Self::body(query, variables)).await
    }

    /// The body of a call. A client with many of them makes these first: a connection on which nothing comes is given up.
    pub fn body(query: &str, variables: Value) -> Vec<u8> {
        json!({ "query": query, "variables": variables }).to_string().into_bytes()
    }

    /// As [`Self::call`], of a body that was made before.
    pub async fn send(&self, body: Vec<u8>) -> Result<Value, CallFailed> {
        let unknown = |error: reqwest::Error| CallFailed::Unknown(format!("{error:?}"));
        let request = self.http.post(format!("{}/graphql", self.url)).bearer_auth(&self.token).timeout(self.patience);
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        let bytes = request.send().await.map_err(unknown)?.bytes().await.map_err(unknown)?;
        let mut answer: Value = serde_json::from_slice(&bytes).map_err(|error| CallFailed::Unknown(error.to_string()))?;
        let Some(error) = answer["errors"].get(0) else { return Ok(answer["data"].take()) };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let code = text(&error["extensions"]["code"]).unwrap_or_default();
        let message = text(&error["message"]).unwrap_or_default();
        if code == "UNKNOWN_OUTCOME" {
            return Err(CallFailed::Unknown(message));
        }
        let (retryable, field) = (error["extensions"]["retryable"] == true, text(&error["extensions"]["field"]));
        Err(CallFailed::Refused { code, retryable, field, message })
    }

    /// The data; a refusal fails the test.
    pub async fn ok(&self, query: &str, variables: Value) -> Value {
        match self.call(query, variables).await {
            Ok(data) => data,
            Err(failed) => panic!("{query}: {failed:?}"),
        }
    }

    /// The refusal; an answer fails the test.
    pub async fn refused(&self, query: &str, variables: Value) -> CallFailed {
        match self.call(query, variables).await {
            Ok(data) => panic!("{query} was not refused: {data}"),
            Err(failed) => failed,
        }
    }

    /// Sends a mutation until its outcome is known. Its input has an operation id, so that it happens once.
    pub async fn surely(&self, query: &str, input: Value) -> Value {
        assert!(input["operationId"].is_string(), "only an operation id makes a retry safe");
        let answered = async {
            loop {
                match self.call(query, json!({ "i": input })).await {
                    Ok(data) => return data,
                    Err(CallFailed::Refused { retryable: false, code, message, .. }) => {
                        panic!("{input} is refused: {code} {message}")
                    }
                    Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
                }
            }
        };
        tokio::time::timeout(crate::PATIENCE, answered).await.unwrap_or_else(|_| panic!("{input} is never answered"))
    }

    pub async fn submit(&self, input: Value) -> String {
        let data = self.ok(SUBMIT, json!({ "i": input })).await;
        data["submitTask"]["task"]["id"].as_str().unwrap().to_owned()
    }

    /// A swarm of its own, by name.
    pub async fn swarm(&self, name: &str) -> String {
        let data = self.ok(CREATE_SWARM, json!({ "i": { "name": name } })).await;
        data["createSwarm"]["swarm"]["id"].as_str().unwrap().to_owned()
    }

    /// Tries once; whether it was done does not matter.
    pub async fn try_create_swarm(&self, name: &str) {
        let _ = self.call(CREATE_SWARM, json!({ "i": { "name": name } })).await;
    }

    pub async fn agent(&self, input: Value) -> String {
        let data = self.ok(CREATE_AGENT, json!({ "i": input })).await;
        data["createAgent"]["agent"]["id"].as_str().unwrap().to_owned()
    }

    /// A swarm with agents that succeed at once.
    pub async fn noop_swarm(&self, name: &str, agents: usize) {
        self.swarm(name).await;
        for n in 0..agents {
            self.agent(
                json!({ "name": format!("noop-{n}"), "swarm": name, "connector": { "noop": true }, "maxConcurrentTasks": 8 }),
            )
            .await;
        }
    }

    pub async fn inject(&self, point: &str, fault: &str, key: Option<&str>, times: u32) {
        self.ok(INJECT, json!({ "i": { "point": point, "fault": fault, "key": key, "times": times } })).await;
    }

    pub async fn task(&self, id: &str) -> Value {
        self.ok(TASK, json!({ "id": id })).await["node"].take()
    }

    /// The task once it has ended.
    pub async fn ended(&self, id: &str) -> Value {
        let ended = async {
            loop {
                let task = self.task(id).await;
                if terminal(task["status"].as_str().unwrap_or_default()) {
                    return task;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(crate::PATIENCE, ended).await {
            Ok(task) => task,
            Err(_) => panic!("{id} does not end: {}", self.task(id).await),
        }
    }

    /// The last committed position.
    pub async fn head(&self) -> String {
        let data = self.ok("{cluster{cursor}}", json!({})).await;
        data["cluster"]["cursor"].as_str().unwrap().to_owned()
    }

    /// All rows of a connection, page by page. `query` takes `$after` and selects `nodes` and `pageInfo{endCursor hasNextPage}`.
    pub async fn all(&self, field: &str, query: &str, mut variables: Value) -> Vec<Value> {
        let mut rows = Vec::new();
        loop {
            let mut data = self.ok(query, variables.clone()).await;
            let page = &mut data[field];
            rows.append(page["nodes"].as_array_mut().unwrap());
            if page["pageInfo"]["hasNextPage"] != true {
                return rows;
            }
            variables["after"] = page["pageInfo"]["endCursor"].take();
        }
    }

    /// Ends every agent, so that nothing outlives the test.
    pub async fn remove_agents(&self) {
        let agents = "query($after:String){agents(first:500,after:$after){nodes{id} pageInfo{endCursor hasNextPage}}}";
        for agent in self.all("agents", agents, json!({})).await {
            self.ok(REMOVE_AGENT, json!({ "i": { "agent": agent["id"], "force": true } })).await;
        }
    }

    /// Removes every VM.
    pub async fn remove_vms(&self) {
        let vms = "query($after:String){vms(first:500,after:$after){nodes{id} pageInfo{endCursor hasNextPage}}}";
        for vm in self.all("vms", vms, json!({})).await {
            self.ok(REMOVE_VM, json!({ "i": { "vm": vm["id"], "force": true } })).await;
        }
    }

    /// Removes a swarm with its agents and tasks.
    pub async fn remove_swarm(&self, swarm: &str) {
        self.surely(REMOVE_SWARM, json!({ "swarm": swarm, "force": true, "operationId": format!("remove-{swarm}") })).await;
    }

    /// A subscription over SSE.
    pub async fn subscribe(&self, query: &str, variables: Value, last: Option<&str>) -> Result<Events, CallFailed> {
        Events::over_sse(self, query, variables, last).await
    }
}

pub fn terminal(status: &str) -> bool {
    matches!(status, "SUCCEEDED" | "FAILED" | "DEAD" | "CANCELLED")
}
