//! The choice which media type an answer takes and which bodies are read.

use axum::http::{HeaderMap, HeaderValue, header};

/// The two media types of a GraphQL answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    /// `application/json`: well-formed requests get 200 whatever their outcome.
    #[default]
    Json,
    /// `application/graphql-response+json`: the status says whether the request could be executed.
    GraphqlResponse,
}

impl Media {
    /// Returns the value of `Content-Type` for an answer of this type.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        })
    }
}

/// One entry of an `Accept` list.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: f32,
}

fn ranges(headers: &HeaderMap) -> Option<Vec<Range<'_>>> {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    values.peek()?;
    let texts = values.filter_map(|value| value.to_str().ok());
    let entries = texts.flat_map(|text| text.split(',')).filter_map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Range { kind, subtype, quality: 1.0 };
        for parameter in parts {
            match parameter.split_once('=') {
                Some((name, value)) if name.trim().eq_ignore_ascii_case("q") => range.quality = value.trim().parse().ok()?,
                // We only write UTF-8; a range that insists on another charset is not for us.
                Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                    let charset = value.trim().trim_matches('"');
                    (charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")).then_some(())?;
                }
                _ => {}
            }
        }
        Some(range)
    });
    Some(entries.collect())
}

/// Returns the quality with which `kind/subtype` is accepted, by the most specific range that covers it.
fn quality(ranges: &[Range<'_>], kind: &str, subtype: &str) -> f32 {
    let best = ranges
        .iter()
        .filter_map(|range| {
            let exact = range.kind.eq_ignore_ascii_case(kind) && range.subtype.eq_ignore_ascii_case(subtype);
            let specificity = match (range.kind, range.subtype) {
                _ if exact => 2,
                (any, "*") if any.eq_ignore_ascii_case(kind) => 1,
                ("*", "*") => 0,
                _ => return None,
            };
            Some((specificity, range.quality))
        })
        .max_by(|a, b| a.0.cmp(&b.0));
    best.map_or(0.0, |(_, quality)| quality)
}

/// Chooses the media type for an answer; `None` if the client accepts neither. Without `Accept` it is JSON.
pub fn media(headers: &HeaderMap) -> Option<Media> {
    let Some(ranges) = ranges(headers) else { return Some(Media::Json) };
    let response = quality(&ranges, "application", "graphql-response+json");
    let json = quality(&ranges, "application", "json");
    let named = ranges.iter().any(|range| range.subtype.eq_ignore_ascii_case("graphql-response+json"));
    match (response > 0.0, json > 0.0) {
        (false, false) => None,
        (true, false) => Some(Media::GraphqlResponse),
        (false, true) => Some(Media::Json),
        // `*/*` alone is what plain tools send; they expect JSON.
        (true, true) if named && response >= json => Some(Media::GraphqlResponse),
        (true, true) => Some(Media::Json),
    }
}

/// Tells whether a browser asks for a page: HTML is named and liked at least as much as JSON.
pub fn wants_html(headers: &HeaderMap) -> bool {
    let Some(ranges) = ranges(headers) else { return false };
    let named = ranges.iter().any(|range| range.subtype.eq_ignore_ascii_case("html") && range.quality > 0.0);
    named && quality(&ranges, "text", "html") >= quality(&ranges, "application", "json")
}

/// Tells whether the body is declared as JSON in UTF-8, the only one that is read: a browser's form cannot send it.
pub fn body_is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let json =
        essence.eq_ignore_ascii_case("application/json") || essence.eq_ignore_ascii_case("application/graphql-response+json");
    json && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_answer_takes_the_media_type_the_client_likes_best() {
        assert_eq!(media(&HeaderMap::new()), Some(Media::Json));
        for (value, expected) in [
            ("*/*", Some(Media::Json)),
            ("application/*", Some(Media::Json)),
            ("application/json", Some(Media::Json)),
            ("application/graphql-response+json", Some(Media::GraphqlResponse)),
            ("application/graphql-response+json, application/json;q=0.9", Some(Media::GraphqlResponse)),
            ("application/graphql-response+json; charset=utf-8, application/json; charset=utf-8", Some(Media::GraphqlResponse)),
            ("application/graphql-response+json;q=0.2, application/json", Some(Media::Json)),
            ("application/json;q=0, */*", Some(Media::GraphqlResponse)),
            ("text/html", None),
            ("application/json; charset=iso-8859-1", None),
        ] {
            assert_eq!(media(&accept(value)), expected, "{value}");
        }
    }

    #[test]
    fn a_browser_gets_a_page_and_a_program_does_not() {
        assert!(wants_html(&accept("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")));
        assert!(!wants_html(&accept("*/*")));
        assert!(!wants_html(&accept("application/json, text/html;q=0.5")));
    }

    #[test]
    fn only_json_bodies_are_read() {
        let content = |value| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert!(body_is_json(&content("application/json; charset=utf-8")));
        assert!(body_is_json(&content("Application/GraphQL-Response+JSON")));
        for bad in [
            "text/plain",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
            "",
        ] {
            assert!(!body_is_json(&content(bad)), "{bad}");
        }
        assert!(!body_is_json(&HeaderMap::new()));
    }
}
