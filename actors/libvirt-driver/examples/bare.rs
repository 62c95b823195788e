//! What libvirt itself takes, with nothing around it: defines, starts, stops and removes so many domains of a test
//! hypervisor, one after the other on one connection. For `benches/libvirt`: `bare URI COUNT` prints microseconds as JSON.

use std::time::Instant;

use virt::{connect::Connect, domain::Domain, error::Error};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (uri, count) = (arguments.next().ok_or("bare URI COUNT")?, arguments.next().ok_or("bare URI COUNT")?.parse::<u32>()?);
    let connection = Connect::open(Some(&uri))?;
    let timed = |what: &str, each: &mut dyn FnMut() -> Result<(), Error>| -> Result<String, Error> {
        let begun = Instant::now();
        each()?;
        Ok(format!("\"{what}\":{}", begun.elapsed().as_micros()))
    };
    let mut domains: Vec<Domain> = Vec::new();
    let create = timed("create", &mut || {
        for number in 0..count {
            let xml = format!(
                "<domain type='test'><name>bare-{number}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
                 <os><type>hvm</type></os></domain>"
            );
            let domain = connection.define_domain_xml(&xml)?;
            domain.create()?;
            domains.push(domain);
        }
        Ok(())
    })?;
    let each = |what: &str, call: fn(&Domain) -> Result<(), Error>| timed(what, &mut || domains.iter().try_for_each(call));
    let stop = each("stop", Domain::destroy)?;
    let start = each("start", Domain::create)?;
    each("stop", Domain::destroy)?;
    let remove = each("remove", Domain::undefine)?;
    println!("{{{create},{stop},{start},{remove}}}");
    Ok(())
}
