//! A provider's answer on its way to the agent, byte for byte, metered as it goes by.
//!
//! It ends with the provider's answer, when the agent goes away, when the pass is closed, when nothing comes for too long, or
//! when the provider passes a bound. In each case what was used as far as it was said is settled, once.

use std::{pin::Pin, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hiveward_models::{Call, Models, Reservation};
use tokio_util::sync::CancellationToken;

use super::{api::Api, hide::Hide, tap::Tap};

type Upstream = Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>;

/// The call that an answer belongs to, with what meters it. Dropping it settles the call.
pub struct Metered {
    pub models: Models,
    pub call: Call,
    pub tap: Tap,
    pub reserved: Option<Reservation>,
}

impl Drop for Metered {
    fn drop(&mut self) {
        let incomplete = !self.tap.is_complete();
        metrics::counter!("hiveward_model_calls_total", "incomplete" => incomplete.to_string()).increment(1);
        self.models.used(&self.call, self.reserved.take(), self.tap.usage(), incomplete);
    }
}

pub struct Relay {
    pub api: Api,
    pub stream: bool,
    pub upstream: Upstream,
    /// What meters the answer; absent for what costs nothing.
    pub metered: Option<Metered>,
    pub hide: Option<Hide>,
    pub cut: CancellationToken,
    pub idle: Duration,
    pub _place: super::call::Place,
    /// Whether the last word has been said; the body is broken off after it.
    pub over: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the answer was cut")]
pub struct Cut;

impl Relay {
    /// Turns it into the body that the agent is sent.
    pub fn body(self) -> Body {
        Body::from_stream(stream::unfold(self, Self::next))
    }

    async fn next(mut self) -> Option<(Result<Bytes, Cut>, Self)> {
        loop {
            if self.over {
                // The last word goes out by itself before the connection is broken.
                tokio::task::yield_now().await;
                return Some((Err(Cut), self));
            }
            let came = tokio::select! {
                biased;
                () = self.cut.cancelled() => return self.last_word(403, "the pass to this node's models was closed"),
                came = tokio::time::timeout(self.idle, self.upstream.next()) => came,
            };
            match came {
                Err(_) => {
                    let message = format!("the provider was silent for {} s", self.idle.as_secs());
                    return self.last_word(504, &message);
                }
                Ok(Some(Ok(bytes))) => {
                    let taken = self.metered.as_mut().map_or(Ok(()), |metered| metered.tap.take(&bytes));
                    let shown = taken.and_then(|()| self.hide.as_mut().map_or(Ok(bytes.clone()), |hide| hide.take(&bytes)));
                    match shown {
                        Ok(bytes) if bytes.is_empty() => {}
                        Ok(bytes) => return Some((Ok(bytes), self)),
                        Err(too_much) => {
                            metrics::counter!("hiveward_model_answers_cut_total").increment(1);
                            return self.last_word(502, &too_much.to_string());
                        }
                    }
                }
                Ok(Some(Err(error))) => {
                    // The agent sees what the provider did: an answer that breaks off.
                    tracing::debug!(error = %error.without_url(), "a provider broke off");
                    self.over = true;
                    self.settle();
                }
                Ok(None) => {
                    if let Some(metered) = &mut self.metered {
                        metered.tap.close();
                    }
                    self.settle();
                    let rest = self.hide.as_mut().map(Hide::rest).unwrap_or_default();
                    self.hide = None;
                    return (!rest.is_empty()).then_some((Ok(rest), self));
                }
            }
        }
    }

    /// Says why, where there is a way to, and breaks off.
    fn last_word(mut self, status: u16, message: &str) -> Option<(Result<Bytes, Cut>, Self)> {
        self.over = true;
        self.settle();
        if self.stream {
            let event = self.api.error_event(status, message);
            Some((Ok(event.into()), self))
        } else {
            Some((Err(Cut), self))
        }
    }

    /// Settles at once, and not when the agent has taken the last byte: what was used is known now. It lets go of the provider
    /// too.
    fn settle(&mut self) {
        self.metered = None;
        self.upstream = stream::empty().boxed();
    }
}
