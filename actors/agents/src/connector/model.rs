//! Asks a model directly, without tools: for planners and judges. No process, nothing to adopt: what a dead node did not
//! hear is asked again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, ready};
use hiveward_catalogue::agent::{
    coding::AnswerKind,
    spec::{AgentSpec, ModelApi, ModelSpec},
};
use hiveward_kernel::lease::Lease;
use hiveward_models::access::{Holder, Pass};
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::{
    Connector, End, Job, Outcome, Report, StartFailure, StopHow, StopWhy,
    attempt::{Attempt, Shared},
    coding::prompt,
    env::ConnectorEnv,
};
use crate::activity::head;

/// Time for one answer, however long it takes the model; the node's own gateway has tighter ones for silence.
const ANSWER_WITHIN: Duration = Duration::from_secs(30 * 60);
const ANSWER_BYTES_MAX: usize = 8 << 20;

pub(super) struct ModelConnector {
    inner: Arc<Inner>,
    jobs: Arc<Mutex<HashMap<Lease, AbortHandle>>>,
    tasks: TaskTracker,
}

struct Inner {
    shared: Arc<Shared>,
    spec: Arc<ModelSpec>,
}

impl ModelConnector {
    pub(super) fn new(agent: Arc<AgentSpec>, env: ConnectorEnv, spec: Arc<ModelSpec>) -> Self {
        let inner = Inner { shared: Arc::new(Shared::new(agent, env)), spec };
        Self { inner: Arc::new(inner), jobs: Arc::default(), tasks: TaskTracker::new() }
    }

    /// Ends a job, and tells whether it ran; then nobody else says how it ended.
    fn end(&self, lease: Lease) -> bool {
        let task = self.jobs.lock().remove(&lease);
        task.inspect(AbortHandle::abort).is_some()
    }

    async fn break_off(&self, lease: Lease, why: StopWhy) {
        if self.end(lease) {
            self.inner.shared.env.models.close(lease);
            self.inner.shared.report(Report::Ended { lease, outcome: Outcome::stopped(why) }).await;
        }
    }
}

impl Drop for ModelConnector {
    fn drop(&mut self) {
        self.jobs.lock().values().for_each(AbortHandle::abort);
    }
}

impl Connector for ModelConnector {
    fn start(&self) -> BoxFuture<'_, Result<(), StartFailure>> {
        ready(Ok(())).boxed()
    }

    fn run(&self, job: Job) -> BoxFuture<'_, ()> {
        let lease = job.lease;
        let mut jobs = self.jobs.lock();
        if jobs.contains_key(&lease) {
            return ready(()).boxed();
        }
        let (inner, all) = (self.inner.clone(), self.jobs.clone());
        let task = self.tasks.spawn(async move {
            inner.shared.report(Report::Started { lease }).await;
            let attempt = Attempt::new(inner.shared.clone(), lease);
            let outcome = match attempt.outcome() {
                Some(outcome) => outcome,
                None => inner.work(&attempt, &job).await,
            };
            // Whoever takes it out of the table says how it ended.
            if all.lock().remove(&lease).is_some() {
                inner.shared.env.models.close(lease);
                attempt.settle(&outcome);
                inner.shared.report(Report::Ended { lease, outcome }).await;
            }
        });
        jobs.insert(lease, task.abort_handle());
        ready(()).boxed()
    }

    fn cancel(&self, lease: Lease, _: StopHow) -> BoxFuture<'_, ()> {
        self.break_off(lease, StopWhy::Withdrawn).boxed()
    }

    fn freeze(&self, frozen: bool) -> BoxFuture<'_, Result<(), String>> {
        // Nothing of it runs here; a call that was made is answered.
        self.inner.shared.frozen.send_replace(frozen);
        ready(Ok(())).boxed()
    }

    fn stop(&self, _: StopHow, why: StopWhy) -> BoxFuture<'_, ()> {
        async move {
            let leases: Vec<_> = self.jobs.lock().keys().copied().collect();
            for lease in leases {
                self.break_off(lease, why).await;
            }
        }
        .boxed()
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        self.jobs.lock().drain().for_each(|(_, task)| task.abort());
        ready(()).boxed()
    }
}

impl Inner {
    async fn work(&self, attempt: &Attempt, job: &Job) -> Outcome {
        let timeout = self.shared.run_timeout(job).unwrap_or(ANSWER_WITHIN);
        match tokio::time::timeout(timeout, self.ask(attempt, job)).await {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(_) => Outcome {
                error: Some(format!("there was no answer within {} ms", timeout.as_millis())),
                retriable: true,
                ..Outcome::of(End::TimedOut)
            },
        }
    }

    async fn ask(&self, attempt: &Attempt, job: &Job) -> Result<Outcome, Outcome> {
        let text = prompt::of(job).map_err(|why| Outcome::failed(why, false))?;
        let kept = |error: std::io::Error| Outcome::failed(format!("the attempt's directory cannot be used: {error}"), true);
        attempt.prepare().map_err(kept)?;
        let holder = Holder {
            lease: job.lease,
            swarm: self.shared.agent.swarm,
            incarnation: attempt.first_incarnation().map_err(kept)?,
            labels: job.labels.clone(),
            rules: self.spec.calls.clone(),
        };
        let pass = self.shared.env.models.open(holder).map_err(|why| Outcome::failed(why, true))?;
        let answer = self.call(&pass, &text).await?;
        let said = self.said(&answer).ok_or_else(|| Outcome::failed("the model answered without a text", true))?;
        let result = match self.spec.answer {
            AnswerKind::Text => Value::String(said),
            AnswerKind::Json => prompt::json_in(&said)
                .ok_or_else(|| Outcome::failed(format!("its answer is no JSON: {}", head(&said, 512)), true))?,
        };
        Ok(Outcome { result: Some(result.to_string().into_bytes().into()), ..Outcome::of(End::Succeeded) })
    }

    async fn call(&self, pass: &Pass, text: &str) -> Result<Value, Outcome> {
        let (path, body) = self.request(text);
        let unclear = |error: reqwest::Error| {
            let error = error.without_url();
            Outcome::failed(format!("the node's model gateway gave no answer: {error}"), true)
        };
        // Loopback only; a proxy of the environment is for others.
        let http = reqwest::Client::builder().no_proxy().build().map_err(unclear)?;
        let request = http.post(format!("{}{path}", pass.url)).bearer_auth(&pass.token).header("anthropic-version", "2023-06-01");
        let mut answer = request.json(&body).send().await.map_err(unclear)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(unclear)? {
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(Outcome::failed(format!("the model's answer has more than {ANSWER_BYTES_MAX} bytes"), false));
            }
            bytes.extend_from_slice(&piece);
        }
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let said = answer.pointer("/error/message").and_then(Value::as_str).unwrap_or("no reason was given");
        let retriable = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Err(Outcome::failed(format!("the model could not be asked ({status}): {}", head(said, 2048)), retriable))
    }

    fn request(&self, text: &str) -> (&'static str, Value) {
        let spec = &self.spec;
        match spec.api {
            ModelApi::Anthropic => {
                let messages = json!([{"role": "user", "content": text}]);
                let mut body = json!({"model": spec.model, "max_tokens": spec.tokens_max, "messages": messages});
                if let Some(instructions) = &spec.instructions {
                    body["system"] = json!(instructions);
                }
                ("/anthropic/v1/messages", body)
            }
            ModelApi::OpenAi => {
                let system = spec.instructions.iter().map(|text| json!({"role": "system", "content": text}));
                let messages: Vec<_> = system.chain([json!({"role": "user", "content": text})]).collect();
                let body = json!({"model": spec.model, "max_completion_tokens": spec.tokens_max, "messages": messages});
                ("/openai/v1/chat/completions", body)
            }
        }
    }

    fn said(&self, answer: &Value) -> Option<String> {
        match self.spec.api {
            ModelApi::Anthropic => {
                let blocks = answer.get("content")?.as_array()?.iter();
                let texts: Vec<_> = blocks.filter_map(|block| block.get("text")?.as_str()).collect();
                (!texts.is_empty()).then(|| texts.join("\n"))
            }
            ModelApi::OpenAi => answer.pointer("/choices/0/message/content")?.as_str().map(str::to_owned),
        }
    }
}
