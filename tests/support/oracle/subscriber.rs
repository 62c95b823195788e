//! One subscription that moves between nodes with its cursor, whenever it likes and whenever its node fails it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::sync::watch;

use super::{
    history::{Event, Stream},
    load::Shared,
};
use crate::{Client, stream::Events};

/// A node that does not open a subscription for so long is left.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);
/// After which nothing more is expected.
const QUIET: Duration = Duration::from_secs(10);
const STAY_MS: std::ops::Range<u64> = 50..1500;

pub struct Subscriber {
    shared: Arc<Shared>,
    nodes: Vec<usize>,
    dice: fastrand::Rng,
    websocket: bool,
    stream: Stream,
}

impl Subscriber {
    pub(super) fn new(shared: Arc<Shared>, nodes: Vec<usize>, dice: fastrand::Rng, websocket: bool) -> Self {
        let stream = Stream { after: "0".into(), ..Stream::default() };
        Self { shared, nodes, dice, websocket, stream }
    }

    /// Until it is stopped; gives itself back with what it saw.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Self {
        while !*stopped.borrow() {
            let client = self.shared.clients[*self.dice.choice(&self.nodes).unwrap()].clone();
            let stay = Duration::from_millis(self.dice.u64(STAY_MS));
            // Cut at any moment; what was taken before that counts.
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                _ = tokio::time::timeout(stay, self.listen(&client, None)) => {}
            }
            self.stream.moves += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self
    }

    /// Goes on until the event with this cursor has come, or nothing comes any more: the checker sees what is missing.
    pub(super) async fn read_to(mut self, head: &str, nodes: &[usize]) -> Stream {
        let client = self.shared.clients[*self.dice.choice(nodes).unwrap()].clone();
        let mut quiet_since = Instant::now();
        while self.last() != head && quiet_since.elapsed() < QUIET {
            let before = self.stream.seen.len();
            let _ = tokio::time::timeout(Duration::from_secs(2), self.listen(&client, Some(head))).await;
            if self.stream.seen.len() > before {
                quiet_since = Instant::now();
            }
        }
        self.stream
    }

    fn last(&self) -> &str {
        self.stream.seen.last().map_or(&self.stream.after, |event| &event.cursor)
    }

    /// Takes events until the node ends the stream, or `head` has come.
    async fn listen(&mut self, client: &Client, head: Option<&str>) {
        let query = format!("subscription($a:Cursor){{events(after:$a){{{}}}}}", Event::FIELDS);
        let after = json!({ "a": self.last() });
        let opening = async {
            if self.websocket {
                Events::over_websocket(client, &query, after).await
            } else {
                client.subscribe(&query, after, None).await
            }
        };
        let Ok(Ok(mut events)) = tokio::time::timeout(OPEN_PATIENCE, opening).await else { return };
        while let Some(Ok(data)) = events.try_next().await {
            self.stream.seen.push(Event::read(&data["events"]));
            if head == Some(self.last()) {
                return;
            }
        }
    }
}
