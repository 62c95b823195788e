//! The pages a browser gets: a small home page and GraphiQL, from assets embedded in the binary, nothing from elsewhere.
//!
//! The assets are built by `npm run build` in `dashboard/`; without them a page says so. `cargo build` never calls npm.

use axum::{
    extract::{Path, Request},
    http::{HeaderName, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use rust_embed::RustEmbed;

use crate::negotiate;

#[derive(RustEmbed)]
#[folder = "../dashboard/dist/graphiql"]
#[allow_missing = true]
struct Assets;

const HOME: &str = include_str!("ui/home.html");
const NOT_BUILT: &str = include_str!("ui/not_built.html");

/// Scripts and styles from here only; GraphiQL's editor runs its language service in a worker made from a blob and
/// writes style elements.
const CSP: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether a browser wants the GraphiQL page rather than an answer to a query.
pub fn is_page_request(request: &Request) -> bool {
    let has_query = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("query=")));
    request.method() == Method::GET && !has_query && negotiate::wants_html(request.headers())
}

fn page(status: StatusCode, html: impl Into<axum::body::Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept"),
    ];
    (status, headers, html.into()).into_response()
}

pub async fn home() -> Response {
    page(StatusCode::OK, HOME)
}

pub fn graphiql() -> Response {
    match Assets::get("index.html") {
        Some(file) => page(StatusCode::OK, file.data.into_owned()),
        None => page(StatusCode::OK, NOT_BUILT),
    }
}

/// One embedded file. Names carry a hash of their content, so they may be kept for ever.
pub async fn asset(Path(path): Path<String>) -> Response {
    let Some(file) = Assets::get(&path) else {
        return (StatusCode::NOT_FOUND, "there is no such asset\n").into_response();
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
    let headers: [(HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (headers, file.data.into_owned()).into_response()
}
