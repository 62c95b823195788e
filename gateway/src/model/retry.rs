//! The rules whether to try a call again, and when. They have no I/O, clock or chance of their own.

use std::time::Duration;

use axum::http::HeaderMap;

pub const TRIES_MAX: u32 = 5;
/// The longest wait that a provider may ask for; a longer one is the agent's business, which is told so.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const BASE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Tells whether an error with this status may pass by itself.
pub fn may_pass(status: u16) -> bool {
    matches!(status, 429 | 500 | 502 | 503 | 504 | 529)
}

/// Returns the pause before the next try, if there is to be one. `tried` counts the tries so far, `random` is 0 to 1.
pub fn pause(tried: u32, retry_after: Option<Duration>, random: f64) -> Option<Duration> {
    if tried >= TRIES_MAX {
        return None;
    }
    let window = BASE.saturating_mul(1 << tried.saturating_sub(1).min(16)).min(PAUSE_MAX);
    match retry_after {
        Some(wait) if wait > RETRY_AFTER_MAX => None,
        // It is a little more than was asked, so that not all who were told the same come back at once.
        Some(wait) => Some(wait + window.min(wait / 10 + Duration::from_millis(10)).mul_f64(random.clamp(0.0, 1.0))),
        None => Some(window.mul_f64(random.clamp(0.0, 1.0))),
    }
}

/// Returns what the provider asks to wait: in milliseconds if it says so, else in seconds. A date is not understood.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    number("retry-after-ms").map(Duration::from_millis).or_else(|| number("retry-after").map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_full_jitter_and_tries_are_bounded() {
        assert_eq!(pause(1, None, 0.0), Some(Duration::ZERO));
        assert_eq!(pause(1, None, 1.0), Some(BASE));
        assert_eq!(pause(3, None, 1.0), Some(BASE * 4));
        assert_eq!(pause(TRIES_MAX, None, 1.0), None);
    }

    #[test]
    fn what_the_provider_asks_is_honoured_up_to_a_bound() {
        let wait = Duration::from_secs(3);
        assert!(pause(1, Some(wait), 0.0) == Some(wait) && pause(1, Some(wait), 1.0).unwrap() > wait);
        assert_eq!(pause(1, Some(Duration::from_secs(61)), 0.5), None);
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "2".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(2)));
        headers.insert("retry-after-ms", "150".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(150)));
        headers.clear();
        headers.insert("retry-after", "Wed, 21 Oct 2026".parse().unwrap());
        assert_eq!(retry_after(&headers), None);
    }
}
