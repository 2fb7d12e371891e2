//! Facts from before links had ids, as journals have them that another build wrote: a route named its link by hardware
//! address, and a link's kind was text.

use serde_json::{Value, json};

/// Gives the links of `record` ids, if it has facts without, and has the routes name them. Of several links with one
/// address the first is taken: such facts are only shown.
pub fn give_ids(record: &mut Value) -> Option<()> {
    let network = record.pointer_mut("/Told/update/Facts/network")?;
    let mut macs = Vec::new();
    for (id, link) in (1..).zip(network.get_mut("links")?.as_array_mut()?) {
        let link = link.as_object_mut()?;
        let kind = match link.get("kind")?.as_str()? {
            "" => json!("Card"),
            name => json!({ "Made": name }),
        };
        link.insert("kind".into(), kind);
        link.insert("id".into(), id.into());
        link.insert("below".into(), json!([]));
        macs.push((link.get("mac")?.clone(), id));
    }
    for route in network.get_mut("routes")?.as_array_mut()? {
        let route = route.as_object_mut()?;
        let mac = route.remove("mac")?;
        let (_, id) = macs.iter().find(|(other, _)| *other == mac)?;
        route.insert("link".into(), (*id).into());
    }
    Some(())
}
