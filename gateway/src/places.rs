//! The places for those who are not known yet, and the bounds on what one address may take.
//!
//! A place for a stream is given to who has shown a good token. Until then a socket stands in a small room of its own, by
//! address as well, and only for `init_timeout_ms`. Wrong tokens are counted by address: over the bound no token of it is
//! looked at until its time is over.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use axum::http::HeaderMap;
use hiveward_runtime::error::{Code, Refused};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The most wrong tokens of one address within [`WRONG_TOKENS_WITHIN`]; then none of it is looked at for the rest of that time.
pub const WRONG_TOKENS_MAX: u32 = 20;
pub const WRONG_TOKENS_WITHIN: Duration = Duration::from_secs(10);
/// The most addresses whose wrong tokens are remembered at once. With more, the one that is over first is forgotten.
const ADDRESSES_MAX: usize = 4_096;

/// The header fields that a proxy adds.
const FORWARDING: [&str; 9] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-real-ip",
    "cf-connecting-ip",
];

/// Tells whether a proxy passed this request on.
pub fn forwarded(headers: &HeaderMap) -> bool {
    FORWARDING.iter().any(|name| headers.contains_key(*name))
}

/// Tells whether the request was meant for this machine by a name that only its own programs use.
pub fn meant_for_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(axum::http::header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns whom a request is from: the peer, or, behind a proxy on this machine, the address that the proxy saw.
pub fn asker(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !peer.is_loopback() {
        return peer;
    }
    let all = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
    // The last one is the proxy's own word; those before it are the client's.
    all.and_then(|all| all.rsplit(',').next()?.trim().parse().ok()).unwrap_or(peer)
}

/// Returns the address that stands for a subscriber: one subscriber of an IPv6 network has a whole /64.
fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

/// The count of what each address has open. It is cheap to clone.
#[derive(Clone, Default)]
pub struct ByAddress(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of what an address has open. Dropping it frees its place.
pub struct Taken {
    of: ByAddress,
    address: IpAddr,
}

impl ByAddress {
    /// Takes one more for an address; `None` if it has `max` already.
    pub fn take(&self, address: IpAddr, max: usize) -> Option<Taken> {
        if max == 0 {
            return None;
        }
        let address = subscriber(address);
        let mut open = self.0.lock();
        let count = open.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Taken { of: self.clone(), address })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut open = self.of.0.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// The places of sockets whose clients have not shown a token yet.
pub struct Strangers {
    all: Arc<Semaphore>,
    by_address: ByAddress,
    per_address_max: usize,
}

/// The place of one such socket.
pub struct Stranger {
    _all: OwnedSemaphorePermit,
    _of_address: Option<Taken>,
}

impl Strangers {
    /// Makes places for `max` sockets, of which one address may have `per_address_max`.
    pub fn new(max: usize, per_address_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), by_address: ByAddress::default(), per_address_max }
    }

    /// Gives a place until it is known who it is. `None` as the address is a call within this process. Errors: `Busy` if all are
    /// taken.
    pub fn enter(&self, address: Option<IpAddr>) -> Result<Stranger, Refused> {
        let full = |what: &str, limit: &str| {
            Refused::new(
                Code::Busy,
                format!(
                    "too many sockets {what} have not shown a token yet (limit `{limit}`); send `Authorization` with the request, or try again"
                ),
            )
        };
        let of_address = match address {
            Some(address) => Some(
                self.by_address
                    .take(address, self.per_address_max)
                    .ok_or_else(|| full("of this address", "strangers_per_address_max"))?,
            ),
            None => None,
        };
        let all = self.all.clone().try_acquire_owned().map_err(|_| full("in all", "strangers_max"))?;
        Ok(Stranger { _all: all, _of_address: of_address })
    }
}

/// The counts of wrong tokens by address.
#[derive(Default)]
pub struct WrongTokens(Mutex<HashMap<IpAddr, (u32, Instant)>>);

impl WrongTokens {
    /// Refuses with `Busy` if this address may not show another token now.
    pub fn allowed(&self, address: IpAddr) -> Result<(), Refused> {
        let wrong = self.0.lock();
        match wrong.get(&subscriber(address)) {
            Some((count, until)) if *count >= WRONG_TOKENS_MAX && Instant::now() < *until => Err(Refused::new(
                Code::Busy,
                format!(
                    "{WRONG_TOKENS_MAX} wrong tokens came from this address; try again after {} seconds",
                    WRONG_TOKENS_WITHIN.as_secs()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Counts a wrong token of an address.
    pub fn count(&self, address: IpAddr) {
        let now = Instant::now();
        let mut wrong = self.0.lock();
        if wrong.len() >= ADDRESSES_MAX {
            wrong.retain(|_, (_, until)| *until > now);
        }
        if wrong.len() >= ADDRESSES_MAX {
            let first = wrong.iter().min_by_key(|(_, (_, until))| *until).map(|(address, _)| *address);
            first.map(|address| wrong.remove(&address));
        }
        let (count, until) = wrong.entry(subscriber(address)).or_insert((0, now + WRONG_TOKENS_WITHIN));
        if *until <= now {
            (*count, *until) = (0, now + WRONG_TOKENS_WITHIN);
        }
        *count += 1;
        metrics::counter!("hiveward_wrong_tokens_total").increment(1);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn an_address_has_no_more_than_its_places_and_a_network_of_ipv6_is_one() {
        let open = ByAddress::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = open.take(address("2001:db8::1"), 2).unwrap();
        let second = open.take(address("2001:db8::ffff"), 2);
        assert!(second.is_some() && open.take(address("2001:db8::2"), 2).is_none());
        assert!(open.take(address("2001:db8:1::1"), 2).is_some());
        drop(first);
        assert!(open.take(address("2001:db8::3"), 2).is_some());
        let _v4 = open.take(address("10.0.0.1"), 1).unwrap();
        assert!(open.take(address("::ffff:10.0.0.1"), 1).is_none());
        drop(second);
        drop(_v4);
        assert!(open.0.lock().is_empty(), "an address without anything open is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_tokens_of_an_address_are_bounded_and_forgotten_and_addresses_too() {
        let wrong = WrongTokens::default();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for _ in 0..WRONG_TOKENS_MAX {
            wrong.allowed(address(1)).unwrap();
            wrong.count(address(1));
        }
        assert_eq!(wrong.allowed(address(1)).unwrap_err().code, Code::Busy);
        wrong.allowed(address(2)).unwrap();
        tokio::time::advance(WRONG_TOKENS_WITHIN).await;
        wrong.allowed(address(1)).unwrap();
        for n in 0..3 * ADDRESSES_MAX as u32 {
            wrong.count(address(n));
        }
        assert!(wrong.0.lock().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn behind_a_proxy_it_is_the_address_that_the_proxy_saw() {
        let from = |value: &str| {
            let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), HeaderValue::from_str(value).unwrap())]);
            (asker([127, 0, 0, 1].into(), &headers).to_string(), asker([10, 0, 0, 9].into(), &headers).to_string())
        };
        assert_eq!(from("1.2.3.4, 5.6.7.8"), ("5.6.7.8".into(), "10.0.0.9".into()));
        assert_eq!(from("nonsense"), ("127.0.0.1".into(), "10.0.0.9".into()));
    }
}
