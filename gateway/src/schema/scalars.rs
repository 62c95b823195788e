//! Scalars of the public schema.

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use hiveward_runtime::{clock::WallMs, ledger};

/// A position in the ledger: opaque text; "0" is before the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub ledger::Cursor);

#[Scalar]
impl ScalarType for Cursor {
    fn parse(value: Value) -> InputValueResult<Self> {
        let parsed = match &value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_u64().map(ledger::Cursor),
            _ => None,
        };
        parsed.map(Self).ok_or_else(|| InputValueError::custom("a cursor is text that this API gave out before, or \"0\""))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

impl From<ledger::Cursor> for Cursor {
    fn from(cursor: ledger::Cursor) -> Self {
        Self(cursor)
    }
}

/// A whole number that may pass 32 bits, such as a size in bytes. Input may be a number or its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BigInt(pub u64);

#[Scalar]
impl ScalarType for BigInt {
    fn parse(value: Value) -> InputValueResult<Self> {
        let parsed = match &value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_u64(),
            _ => None,
        };
        parsed.map(Self).ok_or_else(|| InputValueError::custom("a BigInt is a whole number, zero or more"))
    }

    fn to_value(&self) -> Value {
        Value::Number(self.0.into())
    }
}

/// A moment, RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime(pub WallMs);

#[Scalar]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        let time: jiff::Timestamp =
            text.parse().map_err(|_| InputValueError::custom("a DateTime is RFC 3339, such as 2026-01-31T12:00:00Z"))?;
        Ok(Self(WallMs(time.as_millisecond())))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

impl From<WallMs> for DateTime {
    fn from(at: WallMs) -> Self {
        Self(at)
    }
}
