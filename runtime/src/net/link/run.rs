//! The life of a link on its own task: it reads, writes and pings until one of them ends.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Down, FRAME_BYTES_MAX, LaneHandler, Link, LinkConfig, LinkRefused, Taken,
    conn::{Conn, Stream},
    down::millis,
    frame::{Frame, Kind, Parsed, append, charge, parse},
    outbound::Next,
};
use crate::clock::WallMs;

/// The most that one read takes.
const READ_BYTES: usize = 64 * 1024;
/// The time that a refusal may take to be written before the connection is closed without it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the link and answers why it ended. The handler has heard `up` before and hears `down` after, from the caller.
pub(super) async fn run<S: Stream>(conn: Conn<S>, link: &Link, handler: &Arc<dyn LaneHandler>, config: &LinkConfig) -> Down {
    let (reader, mut writer) = tokio::io::split(conn.stream);
    let started = Instant::now();
    let down = {
        let read = read(reader, conn.buffer, link, handler, config, started);
        let write = write(&mut writer, link, config);
        let ping = ping(link, config, started);
        tokio::select! {
            biased;
            () = link.0.ended.cancelled() => link.why().unwrap_or(Down::Stopped),
            down = read => down,
            down = write => down,
            down = ping => down,
        }
    };
    link.close(down.clone());
    let last_words = match &down {
        Down::WeRefused(why) => Some(why.clone()),
        Down::Stopped => Some(LinkRefused::Stopping),
        _ => None,
    };
    if let Some(why) = last_words {
        let _ = timeout(LAST_WORDS, refuse(&mut writer, &why)).await;
    }
    down
}

async fn refuse<S: Stream>(writer: &mut WriteHalf<S>, why: &LinkRefused) -> std::io::Result<()> {
    let mut frame = Vec::new();
    if let Ok(payload) = rmp_serde::to_vec_named(why)
        && append(&mut frame, Kind::Refused, |buffer| buffer.extend_from_slice(&payload)).is_ok()
    {
        writer.write_all(&frame).await?;
    }
    writer.shutdown().await
}

async fn read<S: Stream>(
    mut reader: ReadHalf<S>,
    mut buffer: BytesMut,
    link: &Link,
    handler: &Arc<dyn LaneHandler>,
    config: &LinkConfig,
    started: Instant,
) -> Down {
    let at_once = handler.takes_at_once();
    loop {
        // Granted once per read, not per frame: several counters of a busy link are shared with its writer.
        let (mut at, mut taken) = (0, 0);
        let needs = loop {
            match parse(&buffer[at..], FRAME_BYTES_MAX) {
                Ok(Parsed::Frame(frame)) => {
                    at += frame.bytes;
                    if at_once && frame.kind == Kind::Data {
                        taken += charge(frame.bytes);
                        handler.frame(link, frame.payload, 0);
                    } else if let Err(down) = take(&frame, link, handler, started) {
                        return down;
                    }
                }
                Ok(Parsed::Needs(bytes)) => break bytes,
                Err(refused) => return Down::WeRefused(refused),
            }
        };
        buffer.advance(at);
        if taken > 0 {
            link.grant_taken(taken);
        }
        if buffer.is_empty() && buffer.capacity() > 4 * READ_BYTES {
            buffer = BytesMut::new();
        }
        buffer.reserve(needs.saturating_sub(buffer.len()).max(READ_BYTES));
        match timeout(config.read_idle, reader.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => return Down::Closed,
            Ok(Ok(bytes)) => {
                link.0.bytes_in.fetch_add(bytes as u64, Relaxed);
            }
            Ok(Err(error)) => return Down::of(&error),
            Err(_) => return Down::Silent { silent_ms: millis(config.read_idle) },
        }
    }
}

#[inline]
fn take(frame: &Frame<'_>, link: &Link, handler: &Arc<dyn LaneHandler>, started: Instant) -> Result<(), Down> {
    let protocol = |what: &str| Err(Down::WeRefused(LinkRefused::Protocol { what: what.into() }));
    match frame.kind {
        Kind::Data => {
            let charge = charge(frame.bytes);
            if !link.charged(charge) {
                return protocol("it sent more than it was granted");
            }
            if handler.frame(link, frame.payload, charge) == Taken::Now {
                link.grant(charge);
            }
            Ok(())
        }
        Kind::Credit => match frame.payload.try_into() {
            Ok(bytes) => {
                link.0.outbound.add_credit(u32::from_be_bytes(bytes));
                Ok(())
            }
            Err(_) => protocol("a grant of the wrong size"),
        },
        Kind::Ping if frame.payload.len() == 16 => {
            let mut answer = frame.payload.to_vec();
            answer.extend_from_slice(&WallMs::now().0.to_be_bytes());
            link.0.outbound.control(Kind::Pong, &answer);
            Ok(())
        }
        Kind::Pong => {
            let words = frame.payload.as_chunks::<8>();
            let ([sent_us, sent_wall, their_wall], []) = words else { return protocol("a pong of the wrong size") };
            let now_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let round_trip_us = now_us.saturating_sub(u64::from_be_bytes(*sent_us));
            let half_ms = i64::try_from(round_trip_us / 2000).unwrap_or(0);
            let at = i64::from_be_bytes(*sent_wall).saturating_add(half_ms);
            link.measured(round_trip_us, i64::from_be_bytes(*their_wall).saturating_sub(at));
            Ok(())
        }
        Kind::Refused => match rmp_serde::from_slice(frame.payload) {
            Ok(why) => Err(Down::PeerRefused(why)),
            Err(_) => Err(Down::Closed),
        },
        Kind::Ping | Kind::Hello | Kind::JoinRequest | Kind::JoinAnswer => {
            protocol("a frame that does not belong on a live link")
        }
    }
}

async fn write<S: Stream>(writer: &mut WriteHalf<S>, link: &Link, config: &LinkConfig) -> Down {
    let stalled = || Down::Stalled { stalled_ms: millis(config.write_stall) };
    let mut unflushed = false;
    loop {
        match link.next() {
            Next::Write(bytes) => {
                match timeout(config.write_stall, writer.write_all(&bytes)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Down::of(&error),
                    Err(_) => return stalled(),
                }
                link.0.bytes_out.fetch_add(bytes.len() as u64, Relaxed);
                link.0.outbound.give_back(bytes);
                unflushed = true;
            }
            Next::Nothing if unflushed => match timeout(config.write_stall, writer.flush()).await {
                Ok(Ok(())) => unflushed = false,
                Ok(Err(error)) => return Down::of(&error),
                Err(_) => return stalled(),
            },
            Next::Nothing => link.0.outbound.wait().await,
            Next::Closed => return link.why().unwrap_or(Down::Stopped),
        }
    }
}

async fn ping(link: &Link, config: &LinkConfig, started: Instant) -> Down {
    let mut ticks = interval(config.ping_every);
    // After a pause of the process one ping is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&now_us.to_be_bytes());
        payload[8..].copy_from_slice(&WallMs::now().0.to_be_bytes());
        link.0.outbound.control(Kind::Ping, &payload);
    }
}
