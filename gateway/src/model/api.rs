//! The two APIs that are spoken, and how each says no.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The Anthropic Messages API.
    Anthropic,
    /// The OpenAI-compatible chat completions API.
    OpenAi,
}

pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

impl Api {
    /// Returns the body of an error with this status.
    pub fn error(self, status: u16, message: &str) -> Value {
        match self {
            Self::Anthropic => {
                let kind = match status {
                    400 => "invalid_request_error",
                    401 => "authentication_error",
                    402 => "billing_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    529 => "overloaded_error",
                    _ => "api_error",
                };
                json!({ "type": "error", "error": { "type": kind, "message": message } })
            }
            Self::OpenAi => {
                let kind = match status {
                    400 | 404 | 413 => "invalid_request_error",
                    401 => "authentication_error",
                    402 => "insufficient_quota",
                    403 => "permission_error",
                    429 => "rate_limit_error",
                    503 | 529 => "overloaded",
                    _ => "server_error",
                };
                json!({ "error": { "message": message, "type": kind, "param": null, "code": kind } })
            }
        }
    }

    /// Answers with an error in the words of this API.
    pub fn refusal(self, status: u16, message: &str) -> Response {
        let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, Json(self.error(status, message))).into_response()
    }

    /// Returns the event that ends a stream which cannot go on.
    pub fn error_event(self, status: u16, message: &str) -> String {
        let body = self.error(status, message);
        // The empty line comes first: the event may stand in the middle of another.
        match self {
            Self::Anthropic => format!("\n\nevent: error\ndata: {body}\n\n"),
            Self::OpenAi => format!("\n\ndata: {body}\n\n"),
        }
    }

    /// Returns the status that clients of this API take for overload.
    pub fn overloaded(self) -> u16 {
        match self {
            Self::Anthropic => 529,
            Self::OpenAi => 503,
        }
    }
}

/// Returns the key or token, in whichever of the two headers it is presented.
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    text(X_API_KEY).or_else(|| text(header::AUTHORIZATION)?.strip_prefix("Bearer "))
}
