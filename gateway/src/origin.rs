//! The pages that may use this gateway from a browser: its own, those that were configured, and those of the cluster's other
//! nodes, so that a page goes on when the node that served it is gone.
//!
//! Credentials are never sent by a browser on its own here (no cookies), so this is the second line, behind the token.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

type Members = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

#[derive(Clone, Default)]
pub struct Origins {
    configured: Vec<String>,
    members: Option<Members>,
}

impl Origins {
    /// Allows these origins besides the gateway's own.
    pub fn new(configured: Vec<String>) -> Self {
        Self { configured, members: None }
    }

    /// Allows also what `members` returns, the origins of the cluster's gateways; it is asked each time.
    pub fn with_members(self, members: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { members: Some(Arc::new(members)), ..self }
    }

    /// Returns where browsers reach the gateways of the cluster, as far as they are plain origins.
    pub fn members(&self) -> Vec<String> {
        self.members.as_ref().map(|members| members()).unwrap_or_default().into_iter().filter(|url| is_origin(url)).collect()
    }

    /// Tells whether a request may come from the page it comes from; a program that sends no `Origin` is no page.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let origin = origin.to_str().unwrap_or_default();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let same =
            origin.split_once("://").is_some_and(|(_, authority)| !host.is_empty() && authority.eq_ignore_ascii_case(host));
        same || self.foreign(origin)
    }

    fn foreign(&self, origin: &str) -> bool {
        self.configured.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            || self.members().iter().any(|member| member.eq_ignore_ascii_case(origin))
    }
}

/// Tells whether a text is `http://host[:port]` or `https://…`, with nothing that could end or extend a policy or a header.
pub fn is_origin(url: &str) -> bool {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    authority.is_some_and(|authority| {
        !authority.is_empty() && authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    })
}

const METHODS: HeaderValue = HeaderValue::from_static("POST");
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, accept, hiveward-project");
const EXPOSED: HeaderValue = HeaderValue::from_static("x-trace-id, retry-after");
/// How long a browser may remember a preflight, in seconds.
const REMEMBERED_S: HeaderValue = HeaderValue::from_static("600");

/// Answers preflights, and lets pages of allowed origins read what is answered to them. Credentials that a browser would
/// send by itself stay forbidden.
pub async fn cross_origin(origins: Origins, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|origin| origin.to_str().is_ok_and(|origin| origins.foreign(origin)));
    let preflight = request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (preflight, &allowed) {
        (true, Some(_)) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            set(&mut response, header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            set(&mut response, header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            set(&mut response, header::ACCESS_CONTROL_MAX_AGE, REMEMBERED_S);
            response
        }
        _ => next.run(request).await,
    };
    if let Some(origin) = allowed {
        set(&mut response, header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        set(&mut response, header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    response
}

fn set(response: &mut Response, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(origin: &str, host: &'static str) -> HeaderMap {
        HeaderMap::from_iter([
            (header::ORIGIN, HeaderValue::from_str(origin).unwrap()),
            (header::HOST, HeaderValue::from_static(host)),
        ])
    }

    #[test]
    fn pages_of_this_gateway_of_its_cluster_and_of_configured_origins_are_let_in_and_no_others() {
        let members = || vec!["http://10.0.0.2:7700".to_owned(), "http://evil *".to_owned()];
        let origins = Origins::new(vec!["https://ops.example".into()]).with_members(members);
        for good in ["http://10.0.0.1:7700", "http://10.0.0.2:7700", "HTTPS://OPS.example"] {
            assert!(origins.allows(&from(good, "10.0.0.1:7700")), "{good}");
        }
        for bad in ["http://10.0.0.3:7700", "https://10.0.0.2:7700", "http://10.0.0.2", "null", "http://evil *", ""] {
            assert!(!origins.allows(&from(bad, "10.0.0.1:7700")), "{bad}");
        }
        assert!(origins.allows(&HeaderMap::new()), "a program is no page");
        assert_eq!(origins.members(), ["http://10.0.0.2:7700"]);
    }
}
