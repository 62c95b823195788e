//! What a guest's first boot is told, as cloud-init's NoCloud source reads it: a small FAT file system labelled `CIDATA`.

use std::io::{Cursor, Error, Write};

use crate::protocol::Definition;

/// FAT12 and what stands in it besides the user data.
const LEAST_BYTES: usize = 512 << 10;

pub fn image(vm: &str, definition: &Definition) -> Result<Vec<u8>, Error> {
    let meta = meta(vm, definition);
    // The user data, the rest, and room for the file system's own tables.
    let bytes = (LEAST_BYTES + (definition.user_data.len() + meta.len()) * 2).next_multiple_of(64 << 10);
    let mut disk = Cursor::new(vec![0; bytes]);
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     ").volume_id(0x6877_0001);
    fatfs::format_volume(&mut disk, options)?;
    {
        let system = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
        let user_data: &[u8] = if definition.user_data.is_empty() { b"#cloud-config\n{}\n" } else { &definition.user_data };
        for (name, body) in [("meta-data", meta.as_bytes()), ("user-data", user_data)] {
            let mut file = system.root_dir().create_file(name)?;
            file.write_all(body)?;
            file.flush()?;
        }
        system.unmount()?;
    }
    Ok(disk.into_inner())
}

/// Keys are here and not in the user data, which is the client's own and is not touched.
fn meta(vm: &str, definition: &Definition) -> String {
    // A host name has no other letters.
    let host: String = definition.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let mut meta = format!("instance-id: {vm}\nlocal-hostname: {}\n", host.trim_matches('-'));
    if !definition.ssh_keys.is_empty() {
        meta.push_str("public-keys:\n");
        for key in &definition.ssh_keys {
            // Text in JSON is text in YAML.
            meta.push_str(&format!("  - {}\n", serde_json::Value::from(key.as_str())));
        }
    }
    meta
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_seed_holds_the_names_the_keys_and_the_user_data_as_they_were_given() {
        let definition = Definition {
            owner: String::new(),
            name: "web.1".into(),
            cpus: 1,
            memory_bytes: 0,
            image: String::new(),
            base: None,
            bases: Vec::new(),
            isolated: false,
            disks: Vec::new(),
            networks: Vec::new(),
            ssh_keys: vec!["ssh-ed25519 AAAA \"me\"".into()],
            user_data: vec![b'x'; 1 << 20],
        };
        let mut disk = Cursor::new(image("00ff", &definition).unwrap());
        let system = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).unwrap();
        assert_eq!(system.volume_label(), "CIDATA");
        let read = |name: &str| {
            let mut body = Vec::new();
            system.root_dir().open_file(name).unwrap().read_to_end(&mut body).unwrap();
            body
        };
        assert_eq!(read("user-data"), definition.user_data);
        let meta = String::from_utf8(read("meta-data")).unwrap();
        assert_eq!(meta, "instance-id: 00ff\nlocal-hostname: web-1\npublic-keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\"\"\n");
    }
}
