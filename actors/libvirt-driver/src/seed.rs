//! What a guest's first boot is told, as cloud-init's NoCloud source reads it: a small FAT file system labelled `CIDATA`.

use std::io::{Cursor, Error, Write};

use crate::protocol::Definition;

/// FAT12 and what stands in it besides the user data.
const LEAST_BYTES: usize = 512 << 10;
/// More than is said of any card.
const CARD_BYTES: usize = 512;

pub fn image(vm: &str, definition: &Definition) -> Result<Vec<u8>, Error> {
    let meta = meta(vm, definition);
    // The user data, the rest, and room for the file system's own tables.
    let bytes = LEAST_BYTES + (definition.user_data.len() + meta.len()) * 2 + definition.networks.len() * CARD_BYTES;
    let bytes = bytes.next_multiple_of(64 << 10);
    let mut disk = Cursor::new(vec![0; bytes]);
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     ").volume_id(0x6877_0001);
    fatfs::format_volume(&mut disk, options)?;
    {
        let system = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
        let user_data: &[u8] = if definition.user_data.is_empty() { b"#cloud-config\n{}\n" } else { &definition.user_data };
        let network = network(definition);
        let network = network.as_ref().map(|body| ("network-config", body.as_bytes()));
        for (name, body) in [("meta-data", meta.as_bytes()), ("user-data", user_data)].into_iter().chain(network) {
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

/// Addresses that the cluster gave it. Without any the guest finds its own, as it would without us; with some, its other
/// cards ask for one by DHCP. Cards whose address is not known here are left to the guest.
fn network(definition: &Definition) -> Option<String> {
    let cards = || definition.networks.iter().filter_map(|name| definition.cards.iter().find(|card| card.network == *name));
    if definition.isolated || cards().all(|card| card.address.is_none()) {
        return None;
    }
    let mut config = "version: 2\nethernets:\n".to_owned();
    for (n, card) in cards().enumerate() {
        config.push_str(&format!("  hiveward{n}:\n    match: {{macaddress: \"{}\"}}\n", card.mac));
        match &card.address {
            Some(address) => config.push_str(&format!("    dhcp4: false\n    addresses: [\"{address}\"]\n")),
            None => config.push_str("    dhcp4: true\n    optional: true\n"),
        }
        if let Some(mtu) = card.mtu {
            config.push_str(&format!("    mtu: {mtu}\n"));
        }
    }
    Some(config)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::protocol::Card;

    fn named(name: &str) -> Definition {
        Definition {
            owner: String::new(),
            name: name.into(),
            cpus: 1,
            memory_bytes: 0,
            image: String::new(),
            base: None,
            bases: Vec::new(),
            isolated: false,
            disks: Vec::new(),
            networks: Vec::new(),
            ssh_keys: Vec::new(),
            user_data: Vec::new(),
            cards: Vec::new(),
        }
    }

    #[test]
    fn a_seed_holds_the_names_the_keys_and_the_user_data_as_they_were_given() {
        let definition =
            Definition { ssh_keys: vec!["ssh-ed25519 AAAA \"me\"".into()], user_data: vec![b'x'; 1 << 20], ..named("web.1") };
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
        assert!(system.root_dir().open_file("network-config").is_err(), "the guest finds its own addresses");
        assert_eq!(meta, "instance-id: 00ff\nlocal-hostname: web-1\npublic-keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\"\"\n");
    }

    #[test]
    fn a_seed_says_the_addresses_that_the_cluster_gave() {
        let card = |network: &str, address: Option<&str>| Card {
            network: network.into(),
            source: "bridge:hwb7".into(),
            mac: "02:00:00:00:00:07".into(),
            mtu: address.map(|_| 1450),
            address: address.map(str::to_owned),
        };
        let networks = vec!["default".into(), "red".into(), "lan".into()];
        let mut definition = Definition { networks, cards: vec![card("lan", None)], ..named("web") };
        assert_eq!(network(&definition), None);
        definition.cards.push(card("red", Some("10.7.0.2/24")));
        let told = network(&definition).unwrap();
        assert!(
            told.starts_with("version: 2\nethernets:\n  hiveward0:\n    match: {macaddress: \"02:00:00:00:00:07\"}"),
            "{told}"
        );
        assert!(told.contains("addresses: [\"10.7.0.2/24\"]\n    mtu: 1450\n") && told.contains("dhcp4: true"), "{told}");
    }
}
