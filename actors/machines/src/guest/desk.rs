//! The desk at which this node's own processes ask guests: a socket in the data directory, open to the node's user alone.
//!
//! Owns the socket and who is served at it: sessions in VMs, each for its own VM, with what sessions need to say (decision
//! 26). Passes on one command at a time of each, and keeps nothing. After a restart it
//! listens anew, and who was served comes back.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hiveward_kernel::id::VmId;
use hiveward_runtime::{
    clock::Deadline,
    supervise::{Behaviour, Context, Failure},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::codec::LengthDelimitedCodec;

use super::{
    allowed,
    ask::{ANSWER_WITHIN, ask},
    askers::May,
    wire::{Ask, FRAME_BYTES_MAX, Said},
};
use crate::host::services::MachineServices;

/// Number of processes that are served at once; more wait until one goes.
const SERVED_MAX: usize = 1_024;
/// Time for a session to be entered that was just started, or is being adopted.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// Time until the next try after this machine could not take a process in, for want of descriptors perhaps.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Returns the path of the desk's socket in a node's data directory.
pub fn socket_of(data_dir: &Path) -> PathBuf {
    data_dir.join("guests.sock")
}

pub struct GuestDesk {
    services: MachineServices,
}

impl GuestDesk {
    /// Returns the actor of the desk; it listens once it is started.
    pub fn new(services: MachineServices) -> Self {
        Self { services }
    }
}

impl Behaviour for GuestDesk {
    type Msg = ();
    type State = ();

    async fn start(&self, ctx: &Context<()>) -> Result<(), Failure> {
        let socket = socket_of(&self.services.data_dir);
        let listener = listen(&socket).map_err(|error| Failure::new(format!("{}: {error}", socket.display())))?;
        let services = self.services.clone();
        // Its end ends who is served.
        ctx.task(async move { serve_all(&services, &listener).await });
        Ok(())
    }

    async fn handle(&self, _: &Context<()>, (): (), (): &mut ()) -> Result<(), Failure> {
        Ok(())
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A socket's path may have 107 bytes; through /proc it is short however deep the data directory is.
    let (dir, name) = (socket.parent().unwrap_or(Path::new(".")), socket.file_name().unwrap_or_default());
    let dir = fs::File::open(dir)?;
    let listener = UnixListener::bind(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve_all(services: &MachineServices, listener: &UnixListener) {
    let places = Arc::new(Semaphore::new(SERVED_MAX));
    let mut all = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let services = services.clone();
                all.spawn(async move {
                    // Who breaks off comes back, or is no more.
                    let _ = serve(&services, socket).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the desk of guests could not take somebody in");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
        while all.try_join_next().is_some() {}
    }
}

/// Tells whether this process is the session of that VM. One that has just been started, or was there before this life of the
/// node, is waited for a little.
async fn admitted(services: &MachineServices, asker: i32, vm: VmId) -> May {
    let known = async {
        loop {
            let entered = services.askers.entered();
            tokio::pin!(entered);
            entered.as_mut().enable();
            match services.askers.may(asker, vm) {
                May::Unknown => entered.await,
                may => return may,
            }
        }
    };
    match tokio::time::timeout(KNOWN_WITHIN, known).await {
        Ok(may) => may,
        // VMs of attempts alone have sessions.
        Err(_) if has_no_attempt(services, vm) => May::No,
        Err(_) => May::Unknown,
    }
}

/// Tells whether nobody's session can ask for this VM. It says no of a VM that is not in the directory, because nothing is known
/// of that.
fn has_no_attempt(services: &MachineServices, vm: VmId) -> bool {
    services.directory.read(|known| known.fleet.vms.get(&vm).is_some_and(|entry| entry.spec.lease.is_none()))
}

async fn serve(services: &MachineServices, socket: UnixStream) -> io::Result<()> {
    let asker = hiveward_kernel::shim::peer(&socket)?;
    let mut frames = LengthDelimitedCodec::builder().little_endian().max_frame_length(FRAME_BYTES_MAX).new_framed(socket);
    while let Some(frame) = frames.next().await {
        let Ask { vm, command } = rmp_serde::from_slice(&frame?).map_err(io::Error::other)?;
        let answer = match admitted(services, asker, vm).await {
            // Nobody knows yet. It comes back, and waits for as long as it takes.
            May::Unknown => return Err(io::Error::other("this process is not known as a session of a VM yet")),
            May::No => {
                tracing::warn!(asker, %vm, "a process asked for a VM that is not its session's; it was refused");
                Said::Refused(format!("process {asker} is not the session of {vm}: a session asks its own VM alone"))
            }
            May::Yes => match allowed::checked(&command) {
                Ok(command) => ask(services, vm, command, Deadline::after(ANSWER_WITHIN)).await,
                Err(why) => {
                    tracing::warn!(asker, %vm, why, "a session said to its guest what sessions do not say");
                    Said::Refused(why)
                }
            },
        };
        let frame = Bytes::from(rmp_serde::to_vec_named(&answer).map_err(io::Error::other)?);
        frames.send(frame).await?;
    }
    Ok(())
}
