//! Everything that is unsafe, and nothing else: events, statistics, states and checkpoints, straight from libvirt's own functions.
//!
//! The bindings lack events, leak statistics and drop the error of a state. Each block says why it is sound.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use virt::{connect::Connect, domain::Domain, error::Error, sys};

use crate::protocol::{Progress, Said};

/// There is one connection per process, so what its callbacks need is the process's.
static LISTENER: OnceLock<SyncSender<Said>> = OnceLock::new();
static MISSED: AtomicBool = AtomicBool::new(false);
/// Who wants to know what was measured of a migration, by domain; no more than there are migrations under way.
static DEPARTURES: Mutex<Vec<(String, SyncSender<Progress>)>> = Mutex::new(Vec::new());

/// Whether an event was left out since the last look.
pub fn take_missed() -> bool {
    MISSED.swap(false, Ordering::AcqRel)
}

fn tell(said: Said) {
    let Some(listener) = LISTENER.get() else { return };
    if let Err(TrySendError::Full(_)) = listener.try_send(said) {
        MISSED.store(true, Ordering::Release);
    }
}

/// Errors are answers here, not lines on standard error.
pub fn quiet() {
    unsafe extern "C" fn nothing(_: *mut c_void, _: sys::virErrorPtr) {}
    // SAFETY: the handler takes what libvirt gives it, touches nothing, and is a function for as long as the process lives.
    unsafe { sys::virSetErrorFunc(ptr::null_mut(), Some(nothing)) };
}

/// Before the first connection: it is then that a connection looks whether there is an event loop.
pub fn start_events(listener: SyncSender<Said>) -> Result<(), String> {
    LISTENER.set(listener).map_err(|_| "events are listened to already".to_owned())?;
    virt::event::event_register_default_impl().map_err(|error| error.message().to_owned())?;
    thread::spawn(|| {
        loop {
            if virt::event::event_run_default_impl().is_err() {
                tell(Said::Closed { why: "libvirt's event loop ended".into() });
                return;
            }
        }
    });
    Ok(())
}

unsafe extern "C" fn changed(_: sys::virConnectPtr, domain: sys::virDomainPtr, _: c_int, _: c_int, _: *mut c_void) -> c_int {
    // SAFETY: libvirt lends the domain for the length of this call.
    let vm = unsafe { uuid(domain) };
    tell(Said::Changed { vm });
    0
}

unsafe extern "C" fn closed(_: sys::virConnectPtr, reason: c_int, _: *mut c_void) {
    let why = match reason {
        1 => "libvirtd closed the connection",
        2 => "libvirtd does not answer keepalives",
        _ => "the connection to libvirtd broke",
    };
    tell(Said::Closed { why: why.into() });
}

unsafe extern "C" fn job_ended(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    _: *mut c_void,
) {
    // SAFETY: libvirt lends the domain and the parameters for the length of this call.
    let (vm, values) = unsafe { (uuid(domain), numbers(params, count)) };
    // A backup's end is told in the same way.
    let departed = ("operation".to_owned(), u64::from(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT));
    if values.contains(&departed) {
        let waiting = DEPARTURES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, told)) = waiting.iter().find(|(of, _)| Some(of) == vm.as_ref()) {
            // Who has one already needs no other.
            let _ = told.try_send(progress(&values));
        }
    }
}

/// What libvirt will tell of a domain that leaves. It is told here, while the domain is still known to the host that it leaves:
/// of one that hosts moved between themselves nothing can be asked there afterwards.
pub struct Departure {
    vm: String,
    told: Receiver<Progress>,
}

impl Departure {
    /// Before it leaves. `None` where libvirt does not say who the domain is.
    pub fn of(domain: &Domain) -> Option<Self> {
        // SAFETY: the domain is held.
        let vm = unsafe { uuid(domain.as_ptr()) }?;
        let (tell, told) = sync_channel(1);
        DEPARTURES.lock().unwrap_or_else(PoisonError::into_inner).push((vm.clone(), tell));
        Some(Self { vm, told })
    }

    /// What was measured of it; `None` if nothing is said within this time.
    pub fn measured(&self, within: Duration) -> Option<Progress> {
        self.told.recv_timeout(within).ok()
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        DEPARTURES.lock().unwrap_or_else(PoisonError::into_inner).retain(|(vm, _)| *vm != self.vm);
    }
}

/// Has every change of a domain, and what was measured of one that left, told from now on.
pub fn listen(connection: &Connect) -> Result<(), String> {
    // SAFETY: for these events libvirt casts the callbacks back to the very types that `changed` and `job_ended` have, as its
    // documentation asks for.
    let (changed, job_ended) = unsafe {
        use std::mem::transmute;

        use sys::virConnectDomainEventGenericCallback as Generic;
        (
            transmute::<sys::virConnectDomainEventCallback, Generic>(Some(changed)),
            transmute::<sys::virConnectDomainEventJobCompletedCallback, Generic>(Some(job_ended)),
        )
    };
    let events = [(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed), (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, job_ended)];
    for (event, callback) in events {
        // SAFETY: the connection is open; there is nothing behind the opaque pointers, so nothing to free.
        let registered = unsafe {
            let (every, nothing) = (ptr::null_mut(), ptr::null_mut());
            sys::virConnectDomainEventRegisterAny(connection.as_ptr(), every, event as c_int, callback, nothing, None)
        };
        if registered < 0 {
            return Err(Error::last_error().message().to_owned());
        }
    }
    // SAFETY: as above. Drivers without a daemon refuse; their connections do not break.
    unsafe { sys::virConnectRegisterCloseCallback(connection.as_ptr(), Some(closed), ptr::null_mut(), None) };
    Ok(())
}

/// 32 hexadecimal digits.
///
/// # Safety
/// The domain is one that libvirt gave out and has not got back.
unsafe fn uuid(domain: sys::virDomainPtr) -> Option<String> {
    let mut bytes = [0_u8; 16];
    // SAFETY: libvirt writes the 16 bytes that are there.
    let got = unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) };
    (got == 0).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// State and reason as libvirt numbers them.
pub fn state(domain: &Domain) -> Result<(i32, i32), Error> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the domain is held, and both numbers are written to.
    let got = unsafe { sys::virDomainGetState(domain.as_ptr(), &mut state, &mut reason, 0) };
    if got < 0 { Err(Error::last_error()) } else { Ok((state, reason)) }
}

/// One domain with what libvirt measured of it.
pub struct Record {
    pub vm: String,
    pub name: String,
    pub values: Vec<(String, u64)>,
}

/// Everything on the host in one call. Figures cost a question to each QEMU; states are known to libvirtd.
pub fn stats(connection: &Connect, may_be_busy: bool, figures: bool) -> Result<Vec<Record>, Error> {
    let of_guests = sys::VIR_DOMAIN_STATS_CPU_TOTAL
        | sys::VIR_DOMAIN_STATS_BALLOON
        | sys::VIR_DOMAIN_STATS_INTERFACE
        | sys::VIR_DOMAIN_STATS_BLOCK;
    let wanted = sys::VIR_DOMAIN_STATS_STATE | if figures { of_guests } else { 0 };
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // What a domain that is busy cannot say at once it does not say: it is never waited for.
    let flags = if may_be_busy { sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT } else { 0 };
    // SAFETY: the connection is open; libvirt allocates the list and writes where it is.
    let count = unsafe { sys::virConnectGetAllDomainStats(connection.as_ptr(), wanted, &mut records, flags) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut found = Vec::with_capacity(count);
    for place in 0..count {
        // SAFETY: the list has `count` records, each with a domain and `nparams` parameters, until it is freed below.
        let record = unsafe { &**records.add(place) };
        // SAFETY: as above; a name is text that ends with a zero and lives as long as its domain.
        let (vm, name) = unsafe {
            let name = sys::virDomainGetName(record.dom);
            if name.is_null() {
                continue;
            }
            (uuid(record.dom), CStr::from_ptr(name).to_string_lossy().into_owned())
        };
        // SAFETY: as above.
        let values = unsafe { numbers(record.params, record.nparams) };
        if let Some(vm) = vm {
            found.push(Record { vm, name, values });
        }
    }
    // SAFETY: it is the list from above, and nothing of it is held any more. Null is allowed.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(found)
}

/// Those parameters that are whole numbers and not negative.
///
/// # Safety
/// `params` are `count` parameters that libvirt wrote and has not got back.
unsafe fn numbers(params: sys::virTypedParameterPtr, count: c_int) -> Vec<(String, u64)> {
    let mut values = Vec::new();
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: there are so many; the type says which member of the union was written.
        let value = unsafe {
            let parameter = &*params.add(at);
            let value = match parameter.type_ as u32 {
                sys::VIR_TYPED_PARAM_INT => u64::try_from(parameter.value.i).ok(),
                sys::VIR_TYPED_PARAM_UINT => Some(u64::from(parameter.value.ui)),
                sys::VIR_TYPED_PARAM_LLONG => u64::try_from(parameter.value.l).ok(),
                sys::VIR_TYPED_PARAM_ULLONG => Some(parameter.value.ul),
                _ => None,
            };
            value.map(|value| (text(&parameter.field), value))
        };
        values.extend(value);
    }
    values
}

/// The migration that is under way, or with `completed` the last one that was; `None` if there is none.
pub fn job(domain: &Domain, completed: bool) -> Result<Option<Progress>, Error> {
    let (mut kind, mut params, mut count) = (0, ptr::null_mut(), 0);
    let flags = if completed { sys::VIR_DOMAIN_JOB_STATS_COMPLETED } else { 0 };
    // SAFETY: the domain is held; libvirt allocates the parameters and writes where and how many they are.
    let got = unsafe { sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut params, &mut count, flags) };
    if got < 0 {
        return Err(Error::last_error());
    }
    // SAFETY: they were written just now, and nothing of them is held after they are freed.
    let values = unsafe {
        let values = numbers(params, count);
        sys::virTypedParamsFree(params, count);
        values
    };
    Ok((kind != sys::VIR_DOMAIN_JOB_NONE as c_int).then(|| progress(&values)))
}

fn progress(values: &[(String, u64)]) -> Progress {
    let value = |name: &str| values.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let page = value("memory_page_size").unwrap_or(4_096);
    Progress {
        elapsed_ms: value("time_elapsed"),
        total_bytes: value("data_total"),
        processed_bytes: value("data_processed"),
        remaining_bytes: value("data_remaining"),
        dirty_bytes: value("memory_dirty_rate").map(|pages| pages.saturating_mul(page)),
        sent_bytes: value("memory_bps"),
        iteration: value("memory_iteration"),
        throttle_percent: value("auto_converge_throttle"),
        downtime_ms: value("downtime"),
    }
}

/// Begins to write a domain's disks elsewhere, and with `checkpoint` to mark what is written from that very moment on.
pub fn begin_backup(domain: &Domain, xml: &str, checkpoint: Option<&str>) -> Result<(), Error> {
    let Ok(xml) = std::ffi::CString::new(xml) else { return Err(Error::last_error()) };
    let Ok(checkpoint) = checkpoint.map(std::ffi::CString::new).transpose() else { return Err(Error::last_error()) };
    let marks = checkpoint.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: the domain is held, and the texts end with a zero and outlive the call; null is no checkpoint.
    let begun = unsafe { sys::virDomainBackupBegin(domain.as_ptr(), xml.as_ptr(), marks, 0) };
    if begun < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Names and descriptions of a domain's checkpoints, parents before their children.
pub fn checkpoints(domain: &Domain) -> Result<Vec<(String, String)>, Error> {
    let mut list: *mut sys::virDomainCheckpointPtr = ptr::null_mut();
    // SAFETY: the domain is held; libvirt allocates the list and writes where it is.
    let count =
        unsafe { sys::virDomainListAllCheckpoints(domain.as_ptr(), &mut list, sys::VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut found = Vec::with_capacity(count);
    for place in 0..count {
        // SAFETY: the list has `count` checkpoints, each ours until it is freed here; a name lives as long as its checkpoint,
        // and a description is ours to free.
        unsafe {
            let checkpoint = *list.add(place);
            let name = sys::virDomainCheckpointGetName(checkpoint);
            let xml = sys::virDomainCheckpointGetXMLDesc(checkpoint, sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN);
            if !name.is_null() && !xml.is_null() {
                let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
                found.push((text(name), text(xml)));
            }
            libc_free(xml);
            sys::virDomainCheckpointFree(checkpoint);
        }
    }
    // SAFETY: it is the list from above, and nothing of it is held any more. Null is allowed.
    unsafe { libc_free(list.cast()) };
    Ok(found)
}

/// Removes a checkpoint and what it marked on the disks, or with `metadata` only that libvirt knows of it.
pub fn remove_checkpoint(domain: &Domain, name: &str, metadata: bool) -> Result<(), Error> {
    let Ok(name) = std::ffi::CString::new(name) else { return Err(Error::last_error()) };
    let flags = if metadata { sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY } else { 0 };
    // SAFETY: the domain is held, the name ends with a zero, and what is found is freed once.
    let removed = unsafe {
        let checkpoint = sys::virDomainCheckpointLookupByName(domain.as_ptr(), name.as_ptr(), 0);
        if checkpoint.is_null() {
            return Err(Error::last_error());
        }
        let removed = sys::virDomainCheckpointDelete(checkpoint, flags);
        // The error is of the call before.
        let error = (removed < 0).then(Error::last_error);
        sys::virDomainCheckpointFree(checkpoint);
        error
    };
    removed.map_or(Ok(()), Err)
}

unsafe extern "C" {
    /// What libvirt allocated for its caller is freed by C's own function.
    #[link_name = "free"]
    fn libc_free(memory: *mut c_char);
}

/// What kind of job is under way, or with `completed` how the last one ended, as libvirt numbers them.
fn job_kind(domain: &Domain, completed: bool) -> Result<c_int, Error> {
    let (mut kind, mut params, mut count) = (0, ptr::null_mut(), 0);
    let flags = if completed { sys::VIR_DOMAIN_JOB_STATS_COMPLETED } else { 0 };
    // SAFETY: the domain is held; libvirt allocates the parameters, of which nothing is held after they are freed.
    unsafe {
        if sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut params, &mut count, flags) < 0 {
            return Err(Error::last_error());
        }
        sys::virTypedParamsFree(params, count);
    }
    Ok(kind)
}

/// Whether the hypervisor still works on its disks.
pub fn is_backed_up(domain: &Domain) -> Result<bool, Error> {
    Ok(job_kind(domain, false)? != sys::VIR_DOMAIN_JOB_NONE as c_int)
}

/// Whether the work that has ended last came to a good end. Says so once.
pub fn was_backed_up(domain: &Domain) -> Result<bool, Error> {
    Ok(job_kind(domain, true)? == sys::VIR_DOMAIN_JOB_COMPLETED as c_int)
}

/// Ends the migration or the backup that is under way; there being none is an error.
pub fn abort(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is held.
    let done = unsafe { sys::virDomainAbortJob(domain.as_ptr()) };
    if done < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Text in a field of fixed length, up to its zero.
fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
