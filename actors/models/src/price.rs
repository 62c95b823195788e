//! Says what tokens cost, as the node's configuration says. Without a price there is no cost: absent, never zero.

pub use hiveward_contract::decimal::{decimal_from_nanos, nanos_from_decimal};
use serde::{Deserialize, Serialize};

use super::usage::Usage;

/// The billionths of the currency for a million tokens, by kind. A kind without a price makes a call that used it unpriced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    pub input: Option<u64>,
    pub output: Option<u64>,
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
}

impl Price {
    /// Returns the cost in billionths of the currency, rounded up: a budget is never overdrawn by rounding. `None` if a kind that
    /// was used has no price.
    pub fn nanos(&self, usage: &Usage) -> Option<u64> {
        const MILLION: u128 = 1_000_000;
        let mut sum: u128 = 0;
        for (tokens, price) in [
            (usage.input, self.input),
            (usage.output, self.output),
            (usage.cache_read, self.cache_read),
            (usage.cache_write, self.cache_write),
        ] {
            if tokens > 0 {
                sum += u128::from(tokens) * u128::from(price?);
            }
        }
        Some(u64::try_from(sum.div_ceil(MILLION)).unwrap_or(u64::MAX))
    }

    /// Returns the most that so many tokens in and out may cost: what goes in may turn out to be of the dearest kind.
    pub fn bound(&self, input: u64, output: u64) -> Option<u64> {
        let kinds = [
            Usage { input, ..Usage::default() },
            Usage { cache_read: input, ..Usage::default() },
            Usage { cache_write: input, ..Usage::default() },
        ];
        self.input?;
        let dearest = kinds.iter().filter_map(|usage| self.nanos(usage)).max()?;
        Some(dearest.saturating_add(self.nanos(&Usage { output, ..Usage::default() })?))
    }
}

/// The prices by the beginnings of models' names; the longest that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices {
    by_prefix: Vec<(String, Price)>,
    currency: String,
}

/// The currency, unless the configuration names another.
pub const CURRENCY_DEFAULT: &str = "USD";

impl Default for Prices {
    fn default() -> Self {
        Self::new([])
    }
}

impl Prices {
    /// Makes a table of prices by the beginnings of models' names, in [`CURRENCY_DEFAULT`].
    pub fn new(prices: impl IntoIterator<Item = (String, Price)>) -> Self {
        let mut prices: Vec<_> = prices.into_iter().collect();
        prices.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { by_prefix: prices, currency: CURRENCY_DEFAULT.to_owned() }
    }

    /// Returns the same prices in another currency; no number is converted.
    pub fn in_currency(self, currency: String) -> Self {
        Self { currency, ..self }
    }

    /// Returns the currency.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// Returns the price of a model; `None` if it has none.
    pub fn of(&self, model: &str) -> Option<&Price> {
        self.by_prefix.iter().find(|(prefix, _)| model.starts_with(prefix.as_str())).map(|(_, price)| price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_that_fits_gives_the_price() {
        let price = |input| Price { input: Some(input), ..Price::default() };
        let prices = Prices::new([("a".to_owned(), price(1)), ("a-big".to_owned(), price(2))]);
        assert_eq!(prices.of("a-big-4"), Some(&price(2)));
        assert_eq!(prices.of("a-small"), Some(&price(1)));
        assert_eq!(prices.of("b"), None);
    }

    #[test]
    fn a_call_costs_what_its_tokens_cost_and_nothing_is_made_up() {
        let price = Price { input: nanos_from_decimal("3"), output: nanos_from_decimal("15"), ..Price::default() };
        let usage = Usage { input: 1_000, output: 100, ..Usage::default() };
        assert_eq!(price.nanos(&usage), Some(4_500_000));
        assert_eq!(price.nanos(&Usage { input: 1, ..Usage::default() }), Some(3_000));
        assert_eq!(price.nanos(&Usage { cache_read: 1, ..usage }), None, "no price for that kind");
        assert_eq!(price.nanos(&Usage { output: u64::MAX, ..usage }), Some(u64::MAX));
    }
}
