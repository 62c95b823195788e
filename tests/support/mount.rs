//! File systems of a test's own: a small tmpfs that can be filled, and an ext4 whose power can be cut. Both need root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

pub struct Mount {
    at: tempfile::TempDir,
    image: Option<PathBuf>,
    mounted: bool,
}

pub fn may_mount() -> bool {
    nix::unistd::geteuid().is_root()
}

pub(crate) fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let ran = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if ran.status.success() { Ok(()) } else { Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr))) }
}

impl Mount {
    pub fn tmpfs(megabytes: u32) -> Result<Self, String> {
        Self::tmpfs_in(&std::env::temp_dir(), megabytes)
    }

    /// Below `dir`, so that whoever sweeps that finds it.
    pub fn tmpfs_in(dir: &Path, megabytes: u32) -> Result<Self, String> {
        let mut mount = Self { at: tempfile::tempdir_in(dir).map_err(|error| error.to_string())?, image: None, mounted: false };
        run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none", mount.text(&mount.path())])?;
        mount.mounted = true;
        Ok(mount)
    }

    pub fn ext4(megabytes: u64) -> Result<Self, String> {
        let at = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = at.path().join("image");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(megabytes << 20).map_err(|error| error.to_string())?;
        let mut mount = Self { at, image: Some(image.clone()), mounted: false };
        run("mkfs.ext4", &["-q", "-F", mount.text(&image)])?;
        std::fs::create_dir(mount.path()).map_err(|error| error.to_string())?;
        mount.mount()?;
        Ok(mount)
    }

    fn text<'a>(&self, path: &'a Path) -> &'a str {
        path.to_str().expect("temporary paths are UTF-8")
    }

    pub fn path(&self) -> PathBuf {
        if self.image.is_some() { self.at.path().join("mnt") } else { self.at.path().to_owned() }
    }

    pub fn mount(&mut self) -> Result<(), String> {
        if let (Some(image), false) = (&self.image, self.mounted) {
            run("mount", &["-o", "loop", self.text(image), self.text(&self.path())])?;
            self.mounted = true;
        }
        Ok(())
    }

    pub fn unmount(&mut self) -> Result<(), String> {
        if self.mounted {
            run("umount", &[self.text(&self.path())])?;
            self.mounted = false;
        }
        Ok(())
    }

    /// From now on nothing reaches the image: neither what was not in sync, nor the journal in memory.
    pub fn cut_power(&self) -> Result<(), String> {
        // EXT4_IOC_SHUTDOWN with NOLOGFLUSH. By Python, because an ioctl from here would be `unsafe`.
        let program = "import fcntl,os,struct,sys\nfcntl.ioctl(os.open(sys.argv[1],os.O_RDONLY),0x8004587d,struct.pack('I',2))";
        run("python3", &["-c", program, self.text(&self.path())])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            let _ = run("umount", &["-l", self.text(&self.path())]);
        }
    }
}
