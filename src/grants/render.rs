//! Policy as text: HuJSON with comments for people, and JSON for programs. Both have the same
//! content.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{CAPABILITY, OWNER, Policy, RegionGrant};

/// Renders the policy as JSON.
pub fn json(policy: &Policy) -> String {
    let owners: serde_json::Map<String, Value> = policy
        .tags()
        .into_iter()
        .map(|tag| (tag.to_owned(), json!([OWNER])))
        .collect();
    let grants: Vec<_> = policy.regions.iter().map(RegionGrant::grant).collect();
    let mut whole = json!({"tagOwners": owners, "grants": grants});
    let tests = policy.tests();
    if !tests.is_empty() {
        whole["tests"] = json!(tests);
    }
    let text = serde_json::to_string_pretty(&whole).expect("a policy is plain data");
    text + "\n"
}

/// Renders the policy as HuJSON with comments.
pub fn hujson(policy: &Policy) -> String {
    let mut text = lines(
        "",
        "Additions to the tailnet policy for peer relays. Merge each section into the section of the \
         same name in the policy file, and keep the rest of the file. This text is generated: to \
         change it, change the PeerRelay.",
    );
    text += &lines("", &format!("WARNING: {}.", super::first_grants_warning()));
    for warning in policy.warnings() {
        text += &lines("", &format!("WARNING: {warning}."));
    }
    text += "{\n";
    text += &lines(
        "  ",
        "Owners of the relays' tags. Save them before you create the auth key: a key can only have \
         tags that the policy defines, and only an owner of the tag can create it. Use these tags \
         for relays only: clients try every device with such a tag as a relay.",
    );
    text += "  \"tagOwners\": {\n";
    for tag in policy.tags() {
        writeln!(text, "    {}: [{}],", quoted(tag), quoted(OWNER)).expect("memory takes all text");
    }
    text += "  },\n\n";
    text += &lines(
        "  ",
        "Clients in src may use the relays in dst to reach any peer. One client of a pair is \
         enough. The grant allows nothing else. The control server adds the matching capability \
         relay-target, and refuses a policy that contains it.",
    );
    text += "  \"grants\": [\n";
    for region in &policy.regions {
        text += &grant(region);
    }
    text += "  ],\n";
    let tests = policy.tests();
    if !tests.is_empty() {
        text += "\n";
        text += &lines(
            "  ",
            "Relays need no access to their clients, not even to forward their packets. The control \
             server refuses the policy if another rule allows such access, for example a rule with \
             src \"*\". Restrict that rule (to autogroup:member and your tags), or omit these tests \
             (spec.grants.tests: Disabled). Tests can check ports only, not capabilities. The status \
             of the PeerRelay shows whether the grants are in force.",
        );
        text += "  \"tests\": [\n";
        for test in tests {
            let deny = list(&test.deny);
            let src = quoted(&test.src);
            writeln!(text, "    {{\"src\": {src}, \"deny\": {deny}}},").expect("memory takes all");
        }
        text += "  ],\n";
    }
    text + "}\n"
}

fn grant(region: &RegionGrant) -> String {
    let grant = region.grant();
    let mut text = lines("    ", &capitalized(&region.origin));
    if region.self_relay {
        let words =
            "The tag of the relays is also in src, so these devices may use the relays too.";
        text += &lines("    ", words);
    }
    let (src, dst) = (list(&grant.src), list(&grant.dst));
    let capability = quoted(CAPABILITY);
    write!(
        text,
        "    {{\n      \"src\": {src},\n      \"dst\": {dst},\n      \
         \"app\": {{{capability}: []}},\n    }},\n"
    )
    .expect("memory takes all text");
    text
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

fn lines(indent: &str, words: &str) -> String {
    let width = 96 - indent.len();
    wrap(words, width)
        .iter()
        .map(|line| format!("{indent}// {line}\n"))
        .collect()
}

fn wrap(words: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
