//! A host's directory pool: images by their hash, the disks that are linked clones of them, and seeds of first boots.
//!
//! All through libvirt's storage calls, so that a host may be anywhere. Names are made of hashes and UUIDs alone: nothing is
//! remembered here. An image is whole exactly when the file has its length, because it is written from front to back.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use virt::{
    connect::Connect,
    enumutil::Enum,
    error::{Error, ErrorNumber},
    storage_pool::StoragePool,
    storage_vol::StorageVol,
    stream::Stream,
    sys,
};

use crate::{
    domain::{escaped, problem},
    protocol::{Base, Definition, Pool, Problem},
    seed,
};

const USUAL_PATH: &str = "/var/lib/libvirt/images/hiveward";
const PIECE_BYTES: usize = 256 << 10;
/// The disk that is made of the image, and begins at its size.
pub const ROOT: &str = "root";
const SEED: &str = "seed";

pub struct Store {
    pool: Pool,
    /// Each host has its own copy of an image where the directory is shared: nobody removes what another still writes.
    mark: String,
    /// libvirt refuses to look through a pool while something is written into it: many write, and who looks is alone.
    busy: RwLock<()>,
    /// Images are brought one at a time: the second that needs one finds it.
    images: Mutex<()>,
}

fn text(error: &Error) -> Problem {
    problem(error)
}

fn is(error: &Error, number: ErrorNumber) -> bool {
    error.code() == Enum::Known(number)
}

/// Where `pool` is on its host.
pub fn path(pool: &Pool) -> &str {
    pool.path.as_deref().unwrap_or(USUAL_PATH)
}

impl Store {
    pub fn new(pool: Pool, owner: &str) -> Self {
        let mark = if pool.shared { format!("-{}", owner.get(20..).unwrap_or(owner)) } else { String::new() };
        Self { pool, mark, busy: RwLock::new(()), images: Mutex::new(()) }
    }

    pub fn path(&self) -> &str {
        path(&self.pool)
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// For who writes into the pool.
    fn busy(&self) -> RwLockReadGuard<'_, ()> {
        self.busy.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For who looks through the pool.
    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.busy.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of a disk of a VM.
    pub fn disk(&self, vm: &str, name: &str) -> String {
        format!("{}/{}", self.path(), disk_name(vm, name))
    }

    pub fn seed(&self, vm: &str) -> String {
        format!("{}/{}", self.path(), seed_name(vm))
    }

    fn image_name(&self, hash: &str) -> String {
        format!("image-{hash}{}", self.mark)
    }

    fn open(&self, connection: &Connect) -> Result<StoragePool, Problem> {
        let path = self.path();
        let found = connection.lookup_storage_pool_by_target_path(path);
        let pool = match found {
            Ok(pool) => pool,
            Err(_) => {
                // Readable, and one name for each path.
                let name: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
                let xml = format!(
                    "<pool type='dir'><name>hiveward{}</name><target><path>{}</path></target></pool>",
                    escaped(&name),
                    escaped(path)
                );
                match connection.define_storage_pool_xml(&xml, 0) {
                    Ok(pool) => pool,
                    // Another connection was first.
                    Err(first) => connection.lookup_storage_pool_by_target_path(path).map_err(|_| text(&first))?,
                }
            }
        };
        if !pool.is_active().map_err(|error| text(&error))? {
            // A directory that is there is fine.
            let _ = pool.build(0);
            if let Err(error) = pool.create(0)
                && !pool.is_active().unwrap_or(false)
            {
                return Err(text(&error));
            }
            let _ = pool.set_autostart(true);
        }
        Ok(pool)
    }

    fn find(pool: &StoragePool, name: &str) -> Result<Option<StorageVol>, Problem> {
        match pool.lookup_storage_vol_by_name(name) {
            Ok(volume) => Ok(Some(volume)),
            Err(error) if is(&error, ErrorNumber::NoStorageVolume) => Ok(None),
            Err(error) => Err(text(&error)),
        }
    }

    /// Sees that the disks and the seed of a VM are there.
    pub fn make(&self, connection: &Connect, vm: &str, definition: &Definition) -> Result<(), Problem> {
        let Some(base) = &definition.base else {
            let message = format!("there is no image {:?}; bring it with `hiveward image import`", definition.image);
            return Err(Problem::Refused(message));
        };
        let pool = self.open(connection)?;
        if self.pool.shared {
            let _alone = self.alone();
            pool.refresh(0).map_err(|error| text(&error))?;
        }
        let _busy = self.busy();
        let root_bytes = definition.disks.iter().find(|(name, _)| name == ROOT).map_or(0, |(_, bytes)| *bytes);
        if Self::find(&pool, &disk_name(vm, ROOT))?.is_none() {
            self.linked(connection, &pool, &disk_name(vm, ROOT), root_bytes, base)?;
        }
        for (name, bytes) in definition.disks.iter().filter(|(name, _)| name != ROOT) {
            if Self::find(&pool, &disk_name(vm, name))?.is_none() {
                match definition.bases.iter().find(|(disk, _)| disk == name) {
                    Some((_, base)) => self.linked(connection, &pool, &disk_name(vm, name), *bytes, base)?,
                    None => drop(create(&pool, &disk_name(vm, name), *bytes, "qcow2", "")?),
                }
            }
        }
        let seed = seed::image(vm, definition).map_err(|error| Problem::Failed(format!("its seed cannot be made: {error}")))?;
        let name = seed_name(vm);
        let whole = |volume: &StorageVol| length(volume).is_ok_and(|bytes| bytes == seed.len() as u64);
        if !Self::find(&pool, &name)?.as_ref().is_some_and(whole) {
            write(connection, &pool, &name, seed.len() as u64, &mut seed.as_slice())?;
        }
        Ok(())
    }

    /// A disk that is a difference to what it begins as.
    fn linked(&self, connection: &Connect, pool: &StoragePool, name: &str, bytes: u64, base: &Base) -> Result<(), Problem> {
        {
            let _one = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            self.image(connection, pool, base)?;
        }
        let backing = format!(
            "<backingStore><path>{}/{}</path><format type='{}'/></backingStore>",
            escaped(self.path()),
            self.image_name(&base.hash),
            escaped(&base.format)
        );
        create(pool, name, bytes.max(base.virtual_bytes), "qcow2", &backing).map(drop)
    }

    /// A file of the pool that another wrote.
    pub fn volume(&self, connection: &Connect, name: &str) -> Result<StorageVol, Problem> {
        let _alone = self.alone();
        let pool = self.open(connection)?;
        pool.refresh(0).map_err(|error| text(&error))?;
        Self::find(&pool, name)?.ok_or_else(|| Problem::Failed(format!("there is no {name} in the pool")))
    }

    /// Writes what a disk of a VM is as a file that stands alone.
    pub fn duplicate(&self, connection: &Connect, vm: &str, disk: &str, to: &str) -> Result<(), Problem> {
        let _busy = self.busy();
        let pool = self.open(connection)?;
        let Some(of) = Self::find(&pool, &disk_name(vm, disk))? else {
            return Err(Problem::Failed(format!("there is no disk {disk} of it in the pool")));
        };
        let bytes = of.info().map_err(|error| text(&error))?.capacity;
        let xml = format!(
            "<volume><name>{}</name><capacity unit='bytes'>{bytes}</capacity><target><format type='qcow2'/>\
             <permissions><mode>0600</mode></permissions></target></volume>",
            escaped(to)
        );
        StorageVol::create_xml_from(&pool, &xml, &of, 0).map(drop).map_err(|error| text(&error))
    }

    /// Sees that an image is there, whole.
    fn image(&self, connection: &Connect, pool: &StoragePool, base: &Base) -> Result<(), Problem> {
        let name = self.image_name(&base.hash);
        if let Some(there) = Self::find(pool, &name)?
            && length(&there).map_err(|error| text(&error))? == base.bytes
        {
            return Ok(());
        }
        let cannot = |error: std::io::Error| Problem::Failed(format!("the image's file on the node cannot be read: {error}"));
        let mut file = File::open(&base.path).map_err(cannot)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(cannot)?;
        file.rewind().map_err(cannot)?;
        if bytes != base.bytes {
            return Err(Problem::Refused(format!("the image's file on the node has {bytes} bytes and not {}", base.bytes)));
        }
        if base.verify {
            let mut hash = blake3::Hasher::new();
            std::io::copy(&mut file, &mut hash).map_err(cannot)?;
            file.rewind().map_err(cannot)?;
            if hash.finalize().to_hex().as_str() != base.hash {
                return Err(Problem::Refused(format!("{} is damaged: it is not what was written", base.path)));
            }
        }
        write(connection, pool, &name, bytes, &mut file)
    }

    /// Removes every disk of a VM. What is not there is gone.
    pub fn remove(&self, connection: &Connect, vm: &str) -> Result<(), Problem> {
        self.remove_those(connection, vm)
    }

    /// Removes one disk of a VM. What is not there is gone.
    pub fn remove_disk(&self, connection: &Connect, vm: &str, name: &str) -> Result<(), Problem> {
        let _alone = self.alone();
        let pool = self.open(connection)?;
        pool.refresh(0).map_err(|error| text(&error))?;
        Self::find(&pool, &disk_name(vm, name))?.map_or(Ok(()), |volume| delete(&volume))
    }

    /// Removes every file of the pool whose name begins so. What is not there is gone.
    pub fn remove_those(&self, connection: &Connect, begins: &str) -> Result<(), Problem> {
        let _alone = self.alone();
        let pool = self.open(connection)?;
        pool.refresh(0).map_err(|error| text(&error))?;
        for volume in pool.list_all_volumes(0).map_err(|error| text(&error))? {
            let name = volume.name().map_err(|error| text(&error))?;
            if name.starts_with(begins) {
                delete(&volume)?;
            }
        }
        Ok(())
    }

    /// Removes this host's images that are not to be kept and that no disk in the pool is made of.
    pub fn sweep(&self, connection: &Connect, keep: &[String]) -> Result<(), Problem> {
        let _alone = self.alone();
        // A host that never had a VM has no pool, and none is made for this.
        let Ok(pool) = connection.lookup_storage_pool_by_target_path(self.path()) else { return Ok(()) };
        if !pool.is_active().unwrap_or(false) {
            return Ok(());
        }
        pool.refresh(0).map_err(|error| text(&error))?;
        let volumes = pool.list_all_volumes(0).map_err(|error| text(&error))?;
        let mut described = Vec::with_capacity(volumes.len());
        for volume in &volumes {
            // Gone meanwhile, or not to be read: then nothing is removed this time.
            described.push((volume.name().map_err(|error| text(&error))?, volume.xml_desc(0).map_err(|error| text(&error))?));
        }
        for (volume, (name, _)) in volumes.iter().zip(&described) {
            let Some(hash) = name.strip_prefix("image-").and_then(|rest| rest.strip_suffix(self.mark.as_str())) else { continue };
            let of_another = hash.contains('-');
            let path = format!("<path>{}/{}</path>", escaped(self.path()), name);
            let in_use = described.iter().any(|(other, xml)| {
                other != name && xml.split_once("<backingStore>").is_some_and(|(_, backing)| backing.contains(&path))
            });
            if !of_another && !in_use && !keep.iter().any(|kept| kept == hash) {
                delete(volume)?;
            }
        }
        Ok(())
    }
}

fn disk_name(vm: &str, name: &str) -> String {
    format!("{vm}-{name}.qcow2")
}

fn seed_name(vm: &str) -> String {
    format!("{vm}-{SEED}.img")
}

/// Of the file, not of the disk that it is.
pub fn length(volume: &StorageVol) -> Result<u64, Error> {
    Ok(volume.info_flags(sys::VIR_STORAGE_VOL_GET_PHYSICAL)?.allocation)
}

fn create(pool: &StoragePool, name: &str, bytes: u64, format: &str, backing: &str) -> Result<StorageVol, Problem> {
    // libvirt's own choice cannot keep marks of what is written.
    let compat = if format == "qcow2" { "<compat>1.1</compat>" } else { "" };
    let xml = format!(
        "<volume><name>{}</name><capacity unit='bytes'>{bytes}</capacity><allocation>0</allocation>\
         <target><format type='{format}'/>{compat}<permissions><mode>0600</mode></permissions></target>{backing}</volume>",
        escaped(name)
    );
    StorageVol::create_xml(pool, &xml, 0).map_err(|error| text(&error))
}

/// Writes a file of the pool anew.
fn write(connection: &Connect, pool: &StoragePool, name: &str, bytes: u64, from: &mut dyn Read) -> Result<(), Problem> {
    if let Some(part) = Store::find(pool, name)? {
        delete(&part)?;
    }
    let volume = create(pool, name, 0, "raw", "")?;
    let stream = Stream::new(connection, 0).map_err(|error| text(&error))?;
    volume.upload(&stream, 0, bytes, 0).map_err(|error| text(&error))?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => {
                let _ = stream.abort();
                return Err(Problem::Failed(format!("the image's file on the node cannot be read: {error}")));
            }
        };
        let mut rest = piece.get(..read).unwrap_or_default();
        while !rest.is_empty() {
            let sent = stream.send(rest).map_err(|error| text(&error))?;
            rest = usize::try_from(sent).ok().and_then(|sent| rest.get(sent..)).unwrap_or_default();
        }
    }
    stream.finish().map_err(|error| text(&error))
}

fn delete(volume: &StorageVol) -> Result<(), Problem> {
    match volume.delete(0) {
        Err(error) if !is(&error, ErrorNumber::NoStorageVolume) => Err(text(&error)),
        _ => Ok(()),
    }
}
