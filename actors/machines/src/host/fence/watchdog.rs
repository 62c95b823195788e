//! The machine's watchdog: resets it when nobody puts that off any more. The wall behind the keeper, for when keeper and node
//! are killed together, or a QEMU cannot be ended.
//!
//! The only `unsafe` of the hosts is here: two ioctls of the kernel's watchdog interface, each with a value of the size that it
//! is defined with, which lives for as long as the call.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use rustix::ioctl::{self, Getter, Updater, opcode};

/// Seconds between the last time it was put off and the reset. They are fewer than what is left of a lease that was just renewed.
const RESET_AFTER_SECONDS: i32 = 5;

/// An armed watchdog. Dropped without [`disarm`](Watchdog::disarm), it resets the machine: that is what it is for.
pub trait Watchdog: Send {
    /// Puts the reset off by [`RESET_AFTER_SECONDS`].
    fn kick(&mut self) -> io::Result<()>;

    /// Disarms it: there will be no reset.
    fn disarm(self: Box<Self>) -> io::Result<()>;
}

/// What a device says of itself.
#[repr(C)]
struct Info {
    options: u32,
    firmware: u32,
    identity: [u8; 32],
}

const SET_TIMEOUT: u32 = 0x80;
const MAGIC_CLOSE: u32 = 0x100;
const GET_SUPPORT: ioctl::Opcode = opcode::read::<Info>(b'W', 0);
const SET_TIMEOUT_CALL: ioctl::Opcode = opcode::read_write::<i32>(b'W', 6);

/// Returns what a device cannot do although it is needed, judged by the options that it says it has.
fn lacks(options: u32) -> Option<&'static str> {
    let needed = [(SET_TIMEOUT, "a timeout that can be set"), (MAGIC_CLOSE, "a way to be disarmed")];
    needed.iter().find(|(option, _)| options & option == 0).map(|(_, what)| *what)
}

/// Tells why a device is of no use that took a timeout of so many seconds when it was asked for [`RESET_AFTER_SECONDS`].
fn too_late(seconds: i32) -> Option<io::Error> {
    (seconds > RESET_AFTER_SECONDS)
        .then(|| io::Error::other(format!("it resets after {seconds} s at the soonest, {RESET_AFTER_SECONDS} are needed")))
}

/// A device of the kernel's.
struct Device(File);

/// Arms the device at `path`. One that could not be disarmed, or set to [`RESET_AFTER_SECONDS`], is refused and left disarmed
/// where the kernel lets it be.
pub fn open(path: &Path) -> io::Result<Box<dyn Watchdog>> {
    let mut file = File::options().write(true).open(path)?;
    let no_watchdog = |error: rustix::io::Errno| io::Error::other(format!("it is no watchdog: {}", io::Error::from(error)));
    // SAFETY: the call writes one `struct watchdog_info`, which `Info` has the layout of.
    let info = unsafe { ioctl::ioctl(&file, Getter::<GET_SUPPORT, Info>::new()) }.map_err(no_watchdog)?;
    let mut seconds = RESET_AFTER_SECONDS;
    let set = match lacks(info.options) {
        Some(what) => Err(io::Error::other(format!("it has not {what}"))),
        // SAFETY: the call reads and writes one int, borrowed until it returns.
        None => unsafe { ioctl::ioctl(&file, Updater::<SET_TIMEOUT_CALL, i32>::new(&mut seconds)) }.map_err(Into::into),
    };
    match set.err().or_else(|| too_late(seconds)) {
        Some(error) => {
            file.write_all(b"V")?;
            Err(error)
        }
        None => Ok(Box::new(Device(file))),
    }
}

impl Watchdog for Device {
    fn kick(&mut self) -> io::Result<()> {
        self.0.write_all(b"k")
    }

    fn disarm(mut self: Box<Self>) -> io::Result<()> {
        // The character that says that what closes it then means to.
        self.0.write_all(b"V")
    }
}

/// What a keeper does with a watchdog, look by look.
pub struct Wall<O> {
    open: O,
    armed: Option<Box<dyn Watchdog>>,
}

impl<O: FnMut() -> io::Result<Box<dyn Watchdog>>> Wall<O> {
    /// Returns a wall that arms what `open` opens, once it is needed.
    pub const fn new(open: O) -> Self {
        Self { open, armed: None }
    }

    /// Takes in a look: whether there is anything that must be ended in time, whether that time has come, and how much of it
    /// still runs. Errors: it could not be armed, and is tried again at the next look; or not be put off, and resets the machine.
    pub fn look(&mut self, holds: bool, over: bool, left: usize) -> io::Result<()> {
        if !holds || (over && left == 0) {
            return self.armed.take().map_or(Ok(()), Watchdog::disarm);
        }
        if over {
            // What must not run any more does: it ends with the machine. One that was not armed is not armed for that.
            return Ok(());
        }
        match &mut self.armed {
            Some(armed) => armed.kick(),
            None => {
                self.armed = Some((self.open)()?);
                Ok(())
            }
        }
    }

    /// Tells whether a watchdog is armed.
    pub const fn is_armed(&self) -> bool {
        self.armed.is_some()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// A watchdog that resets nothing, and tells what it was asked.
    #[derive(Clone, Default)]
    pub(in crate::host::fence) struct Heard(pub Arc<Mutex<Vec<&'static str>>>);

    impl Watchdog for Heard {
        fn kick(&mut self) -> io::Result<()> {
            self.0.lock().push("kick");
            Ok(())
        }
        fn disarm(self: Box<Self>) -> io::Result<()> {
            self.0.lock().push("disarm");
            Ok(())
        }
    }

    fn heard(looks: &[(bool, bool, usize)]) -> Vec<&'static str> {
        let heard = Heard::default();
        let one = heard.clone();
        let mut wall = Wall::new(move || {
            one.0.lock().push("arm");
            Ok(Box::new(one.clone()) as Box<dyn Watchdog>)
        });
        for (holds, over, left) in looks {
            wall.look(*holds, *over, *left).unwrap();
        }
        let heard = heard.0.lock();
        heard.clone()
    }

    #[test]
    fn the_machine_is_reset_only_if_what_must_end_in_time_may_still_run() {
        let (nothing, held) = ((false, false, 0), (true, false, 0));
        assert_eq!(heard(&[nothing, nothing]), [""; 0], "it is not armed for nothing");
        assert_eq!(heard(&[held, held, nothing]), ["arm", "kick", "disarm"]);
        assert_eq!(heard(&[held, (true, true, 0)]), ["arm", "disarm"], "all has ended in time");
        assert_eq!(heard(&[held, (true, true, 2), (true, true, 1)]), ["arm"], "it is not put off while something runs");
        assert_eq!(heard(&[held, (true, true, 1), (true, true, 0)]), ["arm", "disarm"]);
        assert_eq!(
            heard(&[(true, true, 1)]),
            [""; 0],
            "a keeper that comes late does not reset a machine that still serves others"
        );
    }

    #[test]
    fn what_is_no_watchdog_is_said_to_be_none() {
        let error = open(Path::new("/dev/null")).err().unwrap().to_string();
        assert!(error.contains("it is no watchdog"), "{error}");
    }

    #[test]
    fn a_device_that_cannot_be_relied_on_is_told_by_what_it_says_of_itself() {
        assert_eq!(lacks(SET_TIMEOUT | MAGIC_CLOSE | 1), None);
        assert!(lacks(MAGIC_CLOSE).unwrap().contains("timeout"));
        assert!(lacks(SET_TIMEOUT).unwrap().contains("disarmed"));
        assert!(lacks(0).is_some());
        assert!([1, RESET_AFTER_SECONDS].into_iter().all(|seconds| too_late(seconds).is_none()), "sooner does no harm");
        assert!(too_late(RESET_AFTER_SECONDS + 1).unwrap().to_string().contains("resets after 6 s"));
    }

    #[test]
    fn a_device_is_put_off_and_disarmed_by_the_bytes_that_the_kernel_asks_for() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut device = Box::new(Device(File::create(path.path()).unwrap()));
        device.kick().unwrap();
        assert_eq!(std::fs::read(path.path()).unwrap().len(), 1);
        assert_ne!(std::fs::read(path.path()).unwrap(), b"V", "that would disarm it");
        device.disarm().unwrap();
        assert_eq!(std::fs::read(path.path()).unwrap().last(), Some(&b'V'));
    }
}
