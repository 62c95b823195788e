//! Reads and writes amounts of money, which are billionths of a currency here and decimals on the wire.

/// Reads a decimal such as `3.75` as billionths. At most nine digits behind the point, and no sign.
pub fn nanos_from_decimal(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let part: u64 = format!("{part:0<9}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(part)
}

/// Writes billionths as a decimal without needless zeros.
pub fn decimal_from_nanos(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_and_written_without_loss() {
        for (text, nanos) in [("0", 0), ("3.75", 3_750_000_000), ("0.000000001", 1), ("12", 12_000_000_000)] {
            assert_eq!((nanos_from_decimal(text), decimal_from_nanos(nanos)), (Some(nanos), text.to_owned()));
        }
        for bad in ["", "-1", "+1", "1.", ".5", "1e3", "0.0000000001", "99999999999999"] {
            assert_eq!(nanos_from_decimal(bad), None, "{bad}");
        }
    }
}
