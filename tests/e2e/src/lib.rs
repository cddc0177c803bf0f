//! Tests on a real cluster and a real tailnet: the scenarios, the demo and the upgrade.

mod audit;
pub mod demo;
mod evidence;
pub mod scenarios;
pub mod suite;
mod traces;
pub mod upgrade;
