//! Views from node to node, for one that joined after the events were compacted that its own would be made from.
//!
//! The giver writes a copy of its views to a file of its own and reads it out piece by piece; nothing else is touched.

use std::{
    collections::HashMap,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    Ledger,
    view::{ViewError, ViewSource, Views},
};
use crate::{
    clock::Deadline,
    file::make_dir,
    net::{
        desk::{Desk, number},
        rpc::LaneRpc,
    },
    op::NodeId,
};

const PIECE_BYTES: u64 = 1 << 20;
const PIECE_WITHIN: Duration = Duration::from_secs(20);
/// The time that making the copy may take.
const EXPORT_WITHIN: Duration = Duration::from_secs(110);
/// The largest number of copies that are being read out; one more is refused.
const EXPORTS_MAX: usize = 4;
/// The time after which a copy that nobody reads any more is removed.
const EXPORT_IDLE: Duration = Duration::from_secs(120);

#[derive(Serialize, Deserialize)]
enum Question {
    Begin,
    Read { copy: u64, from: u64 },
    End { copy: u64 },
}

#[derive(Serialize, Deserialize)]
enum ViewAnswer {
    Copy { copy: u64, bytes: u64 },
    Piece { bytes: ByteBuf },
    Done,
}

struct Copy {
    path: PathBuf,
    used: Instant,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Left behind, it is removed with the directory at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Inner {
    views: Views,
    desk: Desk<Question, ViewAnswer>,
    ledger: Ledger,
    me: NodeId,
    dir: PathBuf,
    copies: Mutex<HashMap<u64, Copy>>,
}

/// The sharing of views with other nodes. Cheap to clone.
#[derive(Clone)]
pub struct ViewShare(Arc<Inner>);

impl ViewShare {
    /// Gives this node's views to others, and gets theirs when needed. Copies are made in `dir`, which is emptied.
    pub fn open(views: &Views, lane: LaneRpc, ledger: Ledger, me: NodeId, dir: PathBuf) -> std::io::Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        make_dir(&dir)?;
        let desk = Desk::new(lane, number::VIEWS);
        let share = Self(Arc::new(Inner { views: views.clone(), desk, ledger, me, dir, copies: Mutex::default() }));
        let answering = share.clone();
        share.0.desk.open(move |_, question| {
            let share = answering.clone();
            async move { share.answer(question).await.map_err(|error| error.to_string()) }
        });
        views.source(Arc::new(share.clone()));
        Ok(share)
    }

    /// Stops giving views to others, and removes the copies that were being read.
    pub fn close(&self) {
        self.0.desk.close();
        self.0.copies.lock().clear();
    }

    async fn ask(&self, node: NodeId, question: &Question, within: Duration) -> Result<ViewAnswer, ViewError> {
        Ok(self.0.desk.ask(node, question, Deadline::after(within)).await?)
    }

    async fn fetch_from(&self, node: NodeId, into: &PathBuf) -> Result<(), ViewError> {
        let ViewAnswer::Copy { copy, bytes } = self.ask(node, &Question::Begin, EXPORT_WITHIN).await? else {
            return Err("it answered something else".into());
        };
        let mut file = tokio::fs::File::create(into).await?;
        let mut from = 0;
        while from < bytes {
            let ViewAnswer::Piece { bytes: piece } = self.ask(node, &Question::Read { copy, from }, PIECE_WITHIN).await? else {
                return Err("it answered something else".into());
            };
            if piece.is_empty() {
                return Err("the copy ended early".into());
            }
            file.write_all(&piece).await?;
            from += piece.len() as u64;
        }
        file.sync_all().await?;
        // It is removed there by and by if this is not heard.
        let _ = self.ask(node, &Question::End { copy }, PIECE_WITHIN).await;
        Ok(())
    }

    async fn answer(&self, question: Question) -> Result<ViewAnswer, ViewError> {
        match question {
            Question::Begin => {
                let copy = fastrand::u64(..);
                let path = self.0.dir.join(format!("{copy:016x}.redb"));
                {
                    let mut copies = self.0.copies.lock();
                    copies.retain(|_, copy| copy.used.elapsed() < EXPORT_IDLE);
                    if copies.len() >= EXPORTS_MAX {
                        return Err(format!("{EXPORTS_MAX} copies of the views are being read already").into());
                    }
                    copies.insert(copy, Copy { path: path.clone(), used: Instant::now() });
                }
                self.0.views.export(path.clone()).await?;
                Ok(ViewAnswer::Copy { copy, bytes: tokio::fs::metadata(&path).await?.len() })
            }
            Question::Read { copy, from } => {
                let path = {
                    let mut copies = self.0.copies.lock();
                    let found = copies.get_mut(&copy).ok_or("that copy is gone")?;
                    found.used = Instant::now();
                    found.path.clone()
                };
                let read = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
                    let mut file = std::fs::File::open(path)?;
                    file.seek(SeekFrom::Start(from))?;
                    let mut bytes = Vec::new();
                    file.take(PIECE_BYTES).read_to_end(&mut bytes)?;
                    Ok(bytes)
                });
                Ok(ViewAnswer::Piece { bytes: ByteBuf::from(read.await??) })
            }
            Question::End { copy } => {
                self.0.copies.lock().remove(&copy);
                Ok(ViewAnswer::Done)
            }
        }
    }
}

impl ViewSource for ViewShare {
    fn fetch(&self, into: PathBuf) -> BoxFuture<'static, Result<(), ViewError>> {
        let share = self.clone();
        Box::pin(async move {
            let members = share.0.ledger.status().members;
            let mut why: ViewError = "there is no other node".into();
            for node in members.into_iter().filter_map(|member| member.node).filter(|node| *node != share.0.me) {
                match share.fetch_from(node, &into).await {
                    Ok(()) => return Ok(()),
                    Err(error) => why = error,
                }
            }
            Err(why)
        })
    }
}
