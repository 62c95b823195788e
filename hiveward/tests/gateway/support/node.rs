//! A whole node in this process, behind a listener, with a client.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use hiveward_access::role::Role;
use hiveward_actors::node::{Node, NodeConfig};
use hiveward_gateway::{
    auth::Auth,
    schema,
    serve::{Gateway, Server},
};
use hiveward_kernel::shim::ShimProgram;
use serde_json::{Value, json};

use super::{AlwaysReady, CLIENT_TOKEN, TOKEN, config, soon};

pub struct TestNode {
    pub node: Node,
    pub server: Server,
    http: reqwest::Client,
    dir: tempfile::TempDir,
}

impl TestNode {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut node = NodeConfig::new(dir.path());
        node.shim =
            ShimProgram { program: env!("CARGO_BIN_EXE_hiveward").into(), args: vec!["shim".into()], owner: None, lease: None };
        node.default_agents = 2;
        node.faults_allowed = true;
        let node = Node::start(node).await.unwrap();
        let tokens = [("tester", TOKEN, Role::Admin), ("client", CLIENT_TOKEN, Role::AgentManager)];
        let auth = Auth::new(tokens.map(|(name, token, role)| (name.to_owned(), Auth::digest(token), role)));
        let keys = node.control();
        let auth = auth.with_keys(move |text| keys.principal_of_key(text));
        let gateway =
            Gateway::of_node(schema::engine(node.control()), auth, config(), Arc::new(AlwaysReady), node.control()).unwrap();
        let server = Server::start(gateway, false).await.unwrap();
        Self { node, server, http: reqwest::Client::new(), dir }
    }

    pub fn data_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    /// Asks as a client who is no administrator and returns the whole answer; `path` is `/graphql`, or the one of subscriptions.
    pub async fn to_a_client(&self, path: &str, query: &str) -> String {
        let sent = self.http.post(self.url(path)).bearer_auth(CLIENT_TOKEN).json(&json!({ "query": query })).send();
        let answer = soon("an answer", sent).await.unwrap();
        soon("the whole of it", answer.text()).await.unwrap()
    }

    /// Asks with a token or a key, in a project if one is named, and returns the whole answer.
    pub async fn asked_with(&self, token: &str, project: Option<&str>, query: &str, variables: Value) -> Value {
        let body = json!({ "query": query, "variables": variables });
        let mut sent = self.http.post(self.url("/graphql")).bearer_auth(token).json(&body);
        if let Some(project) = project {
            sent = sent.header("hiveward-project", project);
        }
        soon(&format!("an answer to {query}"), sent.send()).await.unwrap().json().await.unwrap()
    }

    /// The answer's own bytes.
    pub async fn text(&self, query: &str) -> String {
        let body = json!({ "query": query });
        let sent = self.http.post(self.url("/graphql")).bearer_auth(TOKEN).json(&body).send();
        sent.await.unwrap().text().await.unwrap()
    }

    async fn answer(&self, query: &str, variables: Value) -> Value {
        let sent = self
            .http
            .post(self.url("/graphql"))
            .bearer_auth(TOKEN)
            .json(&json!({ "query": query, "variables": variables }))
            .send();
        soon("an answer", sent).await.unwrap().json().await.unwrap()
    }

    /// The data of an answer without errors.
    pub async fn ok(&self, query: &str, variables: Value) -> Value {
        let mut answer = self.answer(query, variables).await;
        assert!(answer["errors"].is_null(), "{query}: {answer}");
        answer["data"].take()
    }

    /// Code, field and message of the first error.
    pub async fn refused(&self, query: &str, variables: Value) -> (String, Option<String>, String) {
        let answer = self.answer(query, variables).await;
        let error = &answer["errors"][0];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (
            text(&error["extensions"]["code"]).unwrap_or_else(|| panic!("not refused: {answer}")),
            text(&error["extensions"]["field"]),
            text(&error["message"]).unwrap_or_default(),
        )
    }

    /// A subscription's events as (id, data), over SSE.
    pub async fn subscribe(
        &self,
        query: &str,
        variables: Value,
        last: Option<&str>,
    ) -> impl Stream<Item = (Option<String>, Value)> + use<> {
        let mut request = self
            .http
            .post(self.url("/graphql/stream"))
            .bearer_auth(TOKEN)
            .json(&json!({ "query": query, "variables": variables }));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = soon("the stream opens", request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        let state = (response.bytes_stream().boxed(), String::new());
        let blocks = futures_util::stream::unfold(state, |(mut bytes, mut read)| async move {
            loop {
                if let Some(end) = read.find("\n\n") {
                    let block = read[..end].to_owned();
                    read.drain(..end + 2);
                    return Some((block, (bytes, read)));
                }
                read.push_str(std::str::from_utf8(&bytes.next().await?.ok()?).unwrap());
            }
        });
        blocks
            .filter_map(|block| async move {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let answer: Value = serde_json::from_str(&field("data: ")?).ok()?;
                assert!(answer["errors"].is_null(), "{answer}");
                Some((field("id: "), answer["data"].clone()))
            })
            .boxed()
    }

    /// The task once it has ended.
    pub async fn ended(&self, id: &Value) -> Value {
        let query = "query($id:ID!){node(id:$id){...on Task{status resultText error attempts{number exitCode agentId decision{chosen}}}}}";
        let mut events =
            self.subscribe("subscription($id:ID!){events(after:\"0\",filter:{task:$id}){kind}}", json!({ "id": id }), None).await;
        soon("the task ends", async {
            loop {
                let task = self.ok(query, json!({ "id": id })).await["node"].take();
                if matches!(task["status"].as_str(), Some("SUCCEEDED" | "FAILED" | "DEAD" | "CANCELLED")) {
                    return task;
                }
                // The view may follow the event by a moment, so look again even without one.
                let _event = tokio::time::timeout(Duration::from_millis(100), events.next()).await;
            }
        })
        .await
    }

    /// Stops the node and leaves nothing running: agents' processes would outlive it, as they should in real life.
    pub async fn stop(self) {
        let agents = self.ok("{agents(first:100){nodes{id}}}", json!({})).await;
        for agent in agents["agents"]["nodes"].as_array().into_iter().flatten() {
            let input = json!({ "i": { "agent": agent["id"], "force": true } });
            self.ok("mutation($i:RemoveAgentInput!){removeAgent(input:$i){cursor}}", input).await;
        }
        self.server.stop(Duration::from_secs(5)).await;
        self.node.stop(Duration::from_secs(5)).await;
    }
}
