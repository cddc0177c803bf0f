//! Access to the tailnet: control server, credential, device names and clients.

use url::Url;

use super::{
    Kind, Options, Others,
    draft::{SecretRef, Tailnet},
    fields::Fields,
    note::{Notes, Place},
};
use crate::crd::control_server::ControlServer;

/// Maximum length of a prefix of device names.
const LONGEST_PREFIX: usize = 30;
/// Client that stands for the clients of relays if they are not given.
const PLACEHOLDER: &str = "tag:clients-of-the-relay";

/// Converts the name of a `Tailnet` object, and the object if there is one.
pub(super) fn of_object(
    name: Option<String>,
    place: Place,
    others: &Others<'_>,
    options: &Options,
    notes: &mut Notes,
    named: &mut Vec<usize>,
) -> Tailnet {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return with_auth_key(options, &place, notes);
    };
    let Some((document, object)) = others.find(&Kind::Tailnet(&name)) else {
        let tailnet = with_auth_key(options, &place, notes);
        notes.lost(
            place,
            "the Tailnet is not in the input, so its control server and its OAuth client are \
             unknown: add the output of 'kubectl get tailnets.tailscale.com -o yaml' with another -f",
        );
        return tailnet;
    };
    named.push(document);
    let mut fields = Fields::of(object, document);
    for name in ["apiVersion", "kind", "metadata", "status"] {
        fields.take(name);
    }
    let mut spec = fields.object("spec", notes);
    let url = spec.typed("loginUrl", notes);
    let url = url.and_then(|url| control_url(url, spec.place("loginUrl"), notes));
    let mut credentials = spec.object("credentials", notes);
    let secret: Option<String> = credentials.typed("secretName", notes);
    let tailnet = match secret.filter(|secret| !secret.is_empty()) {
        Some(secret) => with_oauth(secret, credentials.place("secretName"), notes),
        None => with_auth_key(options, &place, notes),
    };
    credentials.finish(notes);
    spec.finish(notes);
    fields.finish(notes);
    Tailnet {
        control_url: url,
        ..tailnet
    }
}

/// Returns the access with the OAuth client of a `Tailnet` object.
fn with_oauth(secret_name: String, place: Place, notes: &mut Notes) -> Tailnet {
    notes.required(
        place,
        "copy this Secret from the namespace of Tailscale's operator to that of the PeerRelay, and \
         allow the operator to read it (the value credentials of the chart). Its OAuth client needs \
         the scope auth_keys and one tag, which owns the tag of the region (tagOwners in the tailnet \
         policy). If the Secret has a federated identity, create an auth key, and set \
         spec.tailnet.authKey instead of oauth",
    );
    Tailnet {
        oauth: Some(SecretRef { secret_name }),
        ..Tailnet::default()
    }
}

/// Returns the access with an auth key, which the user creates.
pub(super) fn with_auth_key(options: &Options, place: &Place, notes: &mut Notes) -> Tailnet {
    notes.required(
        Place {
            path: String::new(),
            ..place.clone()
        },
        "create an auth key that is reusable, pre-approved and has the tag of the region, and save \
         it as the key 'authkey' of the Secret in spec.tailnet.authKey, in the namespace of the \
         PeerRelay",
    );
    Tailnet {
        auth_key: Some(SecretRef {
            secret_name: options.auth_key_secret.clone(),
        }),
        ..Tailnet::default()
    }
}

/// Converts the URL of a control server. Returns nothing for tailscale.com.
pub(super) fn control_url(text: String, place: Place, notes: &mut Notes) -> Option<String> {
    let bare = text.trim_end_matches('/');
    if bare.is_empty() {
        return None;
    }
    let fits = |url: &Url| {
        ["http", "https"].contains(&url.scheme())
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.password().is_none()
            && url.username().is_empty()
            && bare.len() <= 512
    };
    let is_default = |url: &Url| {
        url.scheme() == "https"
            && url.port().is_none()
            && ControlServer::of(Some(url.as_str())) == ControlServer::Hosted
    };
    match Url::parse(bare) {
        Ok(url) if fits(&url) && is_default(&url) => None,
        Ok(url) if fits(&url) => {
            notes.changed(
                place,
                "relays know public certificate authorities only: set spec.tailnet.caBundle if the \
                 control server has a certificate of a private one",
            );
            Some(url.origin().ascii_serialization())
        }
        _ => {
            notes.lost(
                place,
                "relays need a URL without a path, such as https://control.example.net: set \
                 spec.tailnet.controlURL, or the relays join tailscale.com",
            );
            None
        }
    }
}

/// Converts the prefix of device names.
pub(super) fn hostname_prefix(
    given: Option<String>,
    place: Place,
    notes: &mut Notes,
) -> Option<String> {
    let given = given.filter(|given| !given.is_empty())?;
    let allowed =
        |letter: &char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || *letter == '-';
    let plain: String = given.chars().filter(allowed).take(LONGEST_PREFIX).collect();
    let prefix = plain.trim_matches('-').to_owned();
    let is_same = prefix == given;
    notes.changed(
        place,
        match is_same {
            true => "devices are named after the region and the pod or node, and have no number",
            false => {
                "prefixes of device names have at most 30 lower-case letters, digits and dashes, \
                 with a letter or digit at both ends: it is shortened, and names of devices end \
                 with a node or pod instead of a number"
            }
        },
    );
    Some(prefix).filter(|prefix| !prefix.is_empty())
}

/// Returns the clients of the region, or a placeholder with a note.
pub(super) fn clients(options: &Options, place: Place, notes: &mut Notes) -> Vec<String> {
    if !options.clients.is_empty() {
        return options.clients.clone();
    }
    notes.required(
        place,
        format!(
            "replace {PLACEHOLDER} in spec.regions[0].clients by the devices that may use the \
             relays, or convert again with --client: they are the 'src' of the grant with \
             tailscale.com/cap/relay in your tailnet policy"
        ),
    );
    vec![PLACEHOLDER.to_owned()]
}
