//! One call of an agent, from its entry over the tries at providers to its answer.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use hiveward_models::{Call, Entered, Models, NotEntered, Reservation, meter::NotGranted};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    api::{Api, presented},
    hide::Hide,
    key::Key,
    relay::{Metered, Relay},
    request::Asked,
    retry,
    tap::Tap,
    upstream::{Provider, Providers, shown},
};

const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most KiB of all requests that are being answered, together; one more that does not fit is told to come back.
const BODIES_KIB_MAX: usize = 512 * 1024;
const CALLS_MAX: usize = 2_048;
/// How long an agent may take to send its request.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes of a provider's error that are passed on.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);
const FALLBACK: HeaderName = HeaderName::from_static("x-hiveward-fallback");

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Messages,
    CountTokens,
    ChatCompletions,
}

impl Path {
    /// Returns the API that the path belongs to.
    pub fn api(self) -> Api {
        match self {
            Self::Messages | Self::CountTokens => Api::Anthropic,
            Self::ChatCompletions => Api::OpenAi,
        }
    }

    fn at_provider(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::ChatCompletions => "/chat/completions",
        }
    }
}

/// What a call takes up of this node, until its answer is over.
#[derive(Debug)]
pub struct Place {
    _call: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

pub struct Caller {
    pub models: Models,
    pub providers: Providers,
    pub first_byte: Duration,
    pub idle: Duration,
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// The outcome of all tries with one model.
enum Came {
    /// The provider answers.
    Answer(reqwest::Response, Option<Key>, Option<Reservation>),
    /// The provider is overloaded, limited, down or left alone: another may be asked. It holds what to tell the agent if none is.
    Unavailable(Response, String),
    /// The answer that stands, whatever others would say.
    Final(Response),
}

impl Caller {
    /// Makes what answers agents' calls. `first_byte` is how long a provider may take to begin, `idle` how long it may be silent.
    pub fn new(models: Models, providers: Providers, first_byte: Duration, idle: Duration) -> Self {
        let (calls, bytes) = (Arc::new(Semaphore::new(CALLS_MAX)), Arc::new(Semaphore::new(BODIES_KIB_MAX)));
        Self { models, providers, first_byte, idle, calls, bytes }
    }

    /// Answers one call. It ends early if the pass of the attempt is closed.
    pub async fn answer(&self, path: Path, request: Request) -> Response {
        let api = path.api();
        let entered = presented(request.headers()).ok_or(NotEntered::Unknown).and_then(|token| self.models.enter(token));
        let entered = match entered {
            Ok(entered) => entered,
            Err(why) => return not_entered(api, why),
        };
        let place = match self.place(request.headers()) {
            Some(place) => place,
            None => return wait_a_second(api, "too many calls of models are under way on this node"),
        };
        let cut = entered.cut.clone();
        tokio::select! {
            biased;
            () = cut.cancelled() => not_entered(api, NotEntered::Closed),
            response = self.answer_entered(path, request, entered, place) => response,
        }
    }

    fn place(&self, headers: &HeaderMap) -> Option<Place> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let kib = length.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX).div_ceil(1024).max(1);
        let call = self.calls.clone().try_acquire_owned().ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(u32::try_from(kib).ok()?).ok()?;
        Some(Place { _call: call, _bytes: bytes })
    }

    async fn answer_entered(&self, path: Path, request: Request, entered: Entered, place: Place) -> Response {
        let api = path.api();
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let (parts, body) = request.into_parts();
        let body = match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                return api.refusal(413, &format!("the body was not read: it is cut off, or over {BODY_BYTES_MAX} bytes"));
            }
            Err(_) => return api.refusal(408, "the body did not come in time"),
        };
        let asked = match Asked::read(api, body) {
            Ok(asked) => asked,
            Err(problem) => return api.refusal(400, &problem),
        };
        let rules = &entered.holder.rules;
        let Some(first) = self.providers.of(api, rules.provider.as_deref()) else {
            return api
                .refusal(403, "this node has no provider for this API, or several and no default: configure `models.default`");
        };
        let mut candidates = vec![(first, asked.model.as_str())];
        if path != Path::CountTokens {
            candidates.extend(rules.fallback.iter().map(|named| self.providers.fallback(api, first, named)));
        }
        let mut last = None;
        for (provider, model) in candidates {
            let asked_now = match asked.for_model(model) {
                Ok(asked) => asked,
                Err(problem) => return api.refusal(400, &problem),
            };
            match self.tries(path, &query, provider, &parts.headers, &asked_now, &entered).await {
                Came::Final(response) => return response,
                Came::Unavailable(response, why) => {
                    last.get_or_insert((response, why));
                }
                Came::Answer(response, key, reserved) => {
                    let instead = last.map(|(_, why)| why);
                    let metered = (path != Path::CountTokens && response.status().is_success()).then(|| Metered {
                        models: self.models.clone(),
                        call: Call {
                            holder: entered.holder.clone(),
                            provider: provider.name.clone(),
                            model: model.to_owned(),
                            fallback_from: instead.is_some().then(|| asked.model.clone()),
                        },
                        tap: Tap::new(api, is_stream(&response)),
                        reserved,
                    });
                    let mut answer = self.relay(api, response, key.as_ref(), metered, &asked_now, entered.clone(), place);
                    if let Some(why) = instead {
                        self.models.fell_back(entered.holder.lease, &asked.model, model, &why);
                        if let Ok(value) = HeaderValue::from_str(model) {
                            answer.headers_mut().insert(FALLBACK, value);
                        }
                    }
                    return answer;
                }
            }
        }
        last.map_or_else(|| api.refusal(500, "no model was asked"), |(response, _)| response)
    }

    /// Asks one provider for one model until it answers or it makes no sense to go on.
    async fn tries(
        &self,
        path: Path,
        query: &str,
        provider: &Provider,
        from_agent: &HeaderMap,
        asked: &Asked,
        entered: &Entered,
    ) -> Came {
        let api = path.api();
        let url = format!("{}{}{query}", provider.config.url.trim_end_matches('/'), path.at_provider());
        let mut tried = 0;
        loop {
            // It is reserved for each try anew: nothing is set aside while a pause is waited out.
            let reserved = match path {
                Path::CountTokens => None,
                _ => match self.models.reserve(&entered.holder, &provider.name, &asked.model, asked.estimate).await {
                    Ok(reserved) => Some(reserved),
                    Err(NotGranted::Refused(why)) => return Came::Final(api.refusal(402, &why)),
                    Err(NotGranted::Busy(why)) => return Came::Final(wait_a_second(api, &why)),
                },
            };
            if let Err(wait) = provider.admit() {
                let why = format!("provider {} fails and is left alone for a while", provider.name);
                let mut response = api.refusal(api.overloaded(), &why);
                response.headers_mut().insert(header::RETRY_AFTER, (wait.as_secs() + 1).into());
                return Came::Unavailable(response, why);
            }
            let (headers, key) = match self.providers.headers(provider, from_agent) {
                Ok(headers) => headers,
                Err(problem) => {
                    tracing::warn!(provider = provider.name, problem, "a provider's key cannot be read");
                    return Came::Final(api.refusal(403, &format!("provider {}: {problem}", provider.name)));
                }
            };
            tried += 1;
            let request = self.providers.client.request(Method::POST, &url).headers(headers).body(asked.body.clone());
            let sent = tokio::time::timeout(self.first_byte, request.send()).await;
            let (response, why, retry_after) = match sent {
                Ok(Ok(response)) => {
                    let status = response.status().as_u16();
                    // A limit is a sign of life.
                    if retry::may_pass(status) && status != 429 {
                        provider.failed()
                    } else {
                        provider.succeeded()
                    }
                    if !retry::may_pass(status) {
                        return self.answered(api, provider, response, key, reserved).await;
                    }
                    let wait = retry::retry_after(response.headers());
                    (passed_on(response, key.as_ref()).await, format!("provider {} answered {status}", provider.name), wait)
                }
                Ok(Err(error)) => {
                    provider.failed();
                    let connecting = error.is_connect();
                    tracing::warn!(provider = provider.name, error = %error.without_url(), "a provider of models is not reached");
                    let why = format!("provider {} is not reached", provider.name);
                    let response = api.refusal(502, &why);
                    if !connecting {
                        // It may have been answered, and paid for: whether to ask again is the agent's choice.
                        return Came::Unavailable(response, why);
                    }
                    (response, why, None)
                }
                Err(_) => {
                    provider.failed();
                    let why =
                        format!("provider {} did not begin to answer within {} s", provider.name, self.first_byte.as_secs());
                    return Came::Unavailable(api.refusal(504, &why), why);
                }
            };
            drop(reserved);
            match retry::pause(tried, retry_after, fastrand::f64()) {
                Some(pause) => {
                    metrics::counter!("hiveward_model_retries_total", "provider" => provider.name.clone()).increment(1);
                    tokio::time::sleep(pause).await;
                }
                None => return Came::Unavailable(response, format!("{why} ({tried} tries)")),
            }
        }
    }

    async fn answered(
        &self,
        api: Api,
        provider: &Provider,
        response: reqwest::Response,
        key: Option<Key>,
        reserved: Option<Reservation>,
    ) -> Came {
        let status = response.status();
        if status.is_success() {
            return Came::Answer(response, key, reserved);
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            // Providers like to repeat parts of a key that they do not take.
            tracing::warn!(provider = provider.name, %status, "a provider refuses this node's key or what is asked with it");
            let message = format!(
                "provider {} answered {status}: its key on this node is not taken, or may not do this; the operator must mend it",
                provider.name
            );
            return Came::Final(api.refusal(403, &message));
        }
        if status.is_redirection() {
            return Came::Final(api.refusal(502, &format!("provider {} points elsewhere; mend its url", provider.name)));
        }
        Came::Final(passed_on(response, key.as_ref()).await)
    }

    #[allow(clippy::too_many_arguments)]
    fn relay(
        &self,
        api: Api,
        response: reqwest::Response,
        key: Option<&Key>,
        metered: Option<Metered>,
        asked: &Asked,
        entered: Entered,
        place: Place,
    ) -> Response {
        let (status, headers, stream) = (response.status(), shown(response.headers(), key), is_stream(&response));
        let hide = (api == Api::OpenAi && stream && asked.stream && !asked.usage_wanted).then(Hide::default);
        let relay = Relay {
            api,
            stream,
            upstream: response.bytes_stream().boxed(),
            metered,
            hide,
            cut: entered.cut,
            idle: self.idle,
            _place: place,
            over: false,
        };
        (status, headers, relay.body()).into_response()
    }
}

fn is_stream(response: &reqwest::Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// Passes on a provider's error, as far as it is short and does not hold the key.
async fn passed_on(response: reqwest::Response, key: Option<&Key>) -> Response {
    let (status, headers) = (response.status(), shown(response.headers(), key));
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    let reading = async {
        while let Some(Ok(bytes)) = stream.next().await {
            let room = ERROR_BYTES_MAX - body.len();
            body.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
            if body.len() == ERROR_BYTES_MAX {
                break;
            }
        }
    };
    if tokio::time::timeout(ERROR_TIMEOUT, reading).await.is_err() {
        tracing::debug!(%status, "an error of a provider did not come in time");
    }
    if key.is_some_and(|key| key.is_in(&body)) {
        body.clear();
    }
    (status, headers, Body::from(Bytes::from(body))).into_response()
}

fn wait_a_second(api: Api, message: &str) -> Response {
    let mut response = api.refusal(api.overloaded(), message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn not_entered(api: Api, why: NotEntered) -> Response {
    match why {
        NotEntered::Unknown => api.refusal(401, "this token was not given by this node; use the one in the environment"),
        NotEntered::Closed => api.refusal(403, "the attempt that this token was given to is over"),
        NotEntered::Starting => wait_a_second(api, "the node is starting; try again in a second"),
    }
}
