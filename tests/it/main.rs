//! The integration tests: everything that goes through a front door.

#[cfg(test)]
mod dialogues;
#[cfg(test)]
mod ingress;
#[cfg(test)]
mod kind;
#[cfg(test)]
mod mails;
#[cfg(test)]
mod reply;
#[cfg(test)]
mod store;
