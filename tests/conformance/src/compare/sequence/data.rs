//! Data, and what is nothing of this protocol.

use anyhow::{Context, Result, ensure};
use relay_proto::{DropReason, client};

use super::{Effect, Reactions, Sequence};
use crate::compare::{
    difference::Difference,
    step::Oddity,
    subject::{Both, Which},
};

impl Sequence<'_> {
    pub(super) fn data(
        &mut self,
        session: usize,
        place: usize,
        len: usize,
        oddity: Option<Oddity>,
    ) -> Result<()> {
        let payload = vec![self.rng.below(256) as u8; len];
        let datagrams = Both::of(|which| {
            let mut datagram = client::data(self.sessions[session].vni[which], &payload);
            if let Some(oddity) = oddity {
                oddity.mark(&mut datagram, |session| self.sessions[session].vni[which]);
            }
            Ok(datagram)
        })?;
        let reactions = self.deliver(session, 0, place, &datagrams)?;
        let len = datagrams[Which::Go].len();
        self.judge_data(session, place, len, oddity, reactions)?;
        self.compare(session)
    }

    pub(super) fn judge_data(
        &mut self,
        session: usize,
        place: usize,
        len: usize,
        oddity: Option<Oddity>,
        reactions: Reactions,
    ) -> Result<()> {
        let Reactions {
            effects, reason, ..
        } = reactions;
        let odd_version = matches!(oddity, Some(Oddity::GeneveVersion(_)));
        let over = self.limits && reason == Some(DropReason::SessionRate);
        let difference = match () {
            () if effects[Which::Go] == Effect::Silence => None,
            () if odd_version => Some(Difference::GeneveVersion),
            () if over => Some(Difference::Bandwidth),
            () => None,
        };
        let Some(difference) = difference else {
            return self.alike(reactions);
        };
        let ours = effects[Which::Ours];
        ensure!(ours == Effect::Silence, "ours too: {ours:?}");
        let session = &mut self.sessions[session];
        let from = session.bound.iter().position(|leg| *leg == Some(place));
        let from = from.context("Go forwarded what came from no leg")?;
        let (packets, bytes) = &mut session.surplus[from];
        *packets += 1;
        *bytes += len as u64;
        self.differ(difference, reason)
    }

    pub(super) fn noise(&mut self, place: usize, bytes: &[u8]) -> Result<()> {
        let reactions = Both::of(|which| self.subject(which).deliver(place, bytes))?;
        for which in Which::ALL {
            let sent = &reactions[which].sent;
            ensure!(sent.is_empty(), "{which:?} sends something");
        }
        self.tally.silences += 1;
        Ok(())
    }
}
