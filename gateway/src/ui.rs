//! The pages that a browser gets: the dashboard at `/` and below `/ui/`, and GraphiQL, from assets embedded in the binary.
//!
//! The assets are built by `npm run build` in `dashboard/`, which packs with gzip what gains by it; the packed file is all that
//! is embedded, and it is unpacked for a client that does not take it. `cargo build` never calls npm, and without the assets a
//! page says how to build them. Nothing is loaded from elsewhere.

use std::{borrow::Cow, io::Read, sync::Arc};

use axum::{
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::read::GzDecoder;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::{negotiate, origin::is_origin, serve::Gateway};

/// The embedded files: `app/` is the dashboard, `graphiql/` is GraphiQL.
#[derive(RustEmbed)]
#[folder = "../dashboard/dist"]
#[allow_missing = true]
struct Assets;

const NOT_BUILT: &str = include_str!("ui/not_built.html");

/// The policy of the dashboard: scripts from here only. Styles are inline in places: Mantine sets its variables and xterm.js its
/// colours in style elements that they make themselves; what agents write never becomes either.
const APP_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'";

/// The policy of GraphiQL, whose editor also runs its language service in a worker made from a blob.
const GRAPHIQL_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; \
     style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; connect-src 'self'";

/// Tells whether a browser wants the GraphiQL page rather than an answer to a query.
pub fn is_page_request(request: &Request) -> bool {
    let has_query = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("query=")));
    request.method() == Method::GET && !has_query && negotiate::wants_html(request.headers())
}

/// Adds to `policy` the gateways of the cluster's other nodes, from which a page goes on when ours is gone.
fn with_members(policy: &str, members: &[String]) -> String {
    let mut policy = policy.to_owned();
    for origin in members.iter().filter(|origin| is_origin(origin)) {
        // `http…` becomes `ws…`.
        policy.push_str(&format!(" {origin} ws{}", origin.trim_start_matches("http")));
    }
    policy
}

/// Adds to `policy` our own host's WebSockets, which `'self'` does not mean in every browser.
fn with_sockets(policy: &str, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // It comes from the client: only what can be in a host and a port may become part of a policy.
    let plain =
        |host: &&str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    match host.filter(plain) {
        Some(host) => format!("{policy} ws://{host} wss://{host}"),
        None => policy.to_owned(),
    }
}

fn page(file: Option<EmbeddedFile>, policy: &str, headers: &HeaderMap) -> Response {
    let html = file.map_or(Cow::Borrowed(NOT_BUILT.as_bytes()), |file| file.data);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_str(&with_sockets(policy, headers)).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        ),
        // The names of the assets change with each build, and the page names them.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    (StatusCode::OK, headers, html.into_owned()).into_response()
}

/// Serves the dashboard; every address below `/ui/` is a screen of it.
pub async fn app(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    page(Assets::get("app/index.html"), &with_members(APP_POLICY, &gateway.origins.members()), &headers)
}

/// Serves the page of GraphiQL.
pub fn graphiql(headers: &HeaderMap) -> Response {
    page(Assets::get("graphiql/index.html"), GRAPHIQL_POLICY, headers)
}

/// Serves one embedded file of the dashboard.
pub async fn app_asset(path: Path<String>, headers: HeaderMap) -> Response {
    asset(&format!("app/assets/{}", path.0), &headers)
}

/// Serves one embedded file of GraphiQL.
pub async fn graphiql_asset(path: Path<String>, headers: HeaderMap) -> Response {
    asset(&format!("graphiql/{}", path.0), &headers)
}

/// Tells whether the client takes a body that is packed with gzip. A weight of zero means that it does not.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING);
    all.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = parts.any(|weight| weight.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32)));
        named && !refused
    })
}

/// Serves an embedded file. Names carry a hash of their content, so they may be kept for ever.
fn asset(path: &str, headers: &HeaderMap) -> Response {
    let plain = || Assets::get(path).map(|file| (file.data, false));
    let packed = Assets::get(&format!("{path}.gz"));
    let found =
        packed.map_or_else(plain, |file| if takes_gzip(headers) { Some((file.data, true)) } else { unpacked(&file.data) });
    let Some((body, packed)) = found else {
        return (StatusCode::NOT_FOUND, "there is no such asset; the page may be of another version: load it again\n")
            .into_response();
    };
    let kind = match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("ttf") => "font/ttf",
        Some("woff2") => "font/woff2",
        Some("json" | "map") => "application/json",
        _ => "application/octet-stream",
    };
    let fixed: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::VARY, "accept-encoding"),
    ];
    let mut response = (fixed, body.into_owned()).into_response();
    if packed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Unpacks an embedded file for a client that does not take it as it is. Returns `None` if the file is damaged.
fn unpacked(packed: &[u8]) -> Option<(Cow<'static, [u8]>, bool)> {
    let mut plain = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut plain).ok()?;
    Some((Cow::Owned(plain), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_packed_copy_is_for_who_takes_it() {
        let takes = |accept| takes_gzip(&with(header::ACCEPT_ENCODING, accept));
        assert!(takes("br, gzip;q=1.0"));
        assert!(takes("GZIP"));
        assert!(!takes("br, gzip;q=0"));
        assert!(!takes("identity"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn who_takes_no_packed_copy_gets_the_same_bytes_unpacked() {
        let mut packed = flate2::read::GzEncoder::new(&b"let a = 1;"[..], flate2::Compression::best());
        let mut bytes = Vec::new();
        packed.read_to_end(&mut bytes).unwrap();
        let (plain, is_packed) = unpacked(&bytes).unwrap();
        assert_eq!((&*plain, is_packed), (&b"let a = 1;"[..], false));
        assert!(unpacked(b"no gzip").is_none());
    }

    #[test]
    fn a_page_may_go_on_from_the_other_nodes_of_its_cluster() {
        let members = ["http://10.0.0.2:7700".to_owned(), "https://hive.example".into(), "http://x; script-src *".into()];
        assert_eq!(
            with_members("connect-src 'self'", &members),
            "connect-src 'self' http://10.0.0.2:7700 ws://10.0.0.2:7700 https://hive.example wss://hive.example"
        );
    }

    #[test]
    fn a_host_cannot_smuggle_anything_into_the_policy() {
        let policy = |host| with_sockets("connect-src 'self'", &with(header::HOST, host));
        assert_eq!(policy("hive.example:7700"), "connect-src 'self' ws://hive.example:7700 wss://hive.example:7700");
        assert_eq!(policy("[::1]:7700"), "connect-src 'self' ws://[::1]:7700 wss://[::1]:7700");
        for host in ["x; script-src *", "x *", "", "x,y", "x'"] {
            assert_eq!(policy(host), "connect-src 'self'", "{host}");
        }
    }
}
