//! SETTINGS (RFC 9114 section 7.2.4).

use bytes::BytesMut;

use super::error::{H3Error, SettingsError};
use super::frame::{encode_frame_header, kind};
use super::{grease, varint};

/// Identifiers of settings that we understand.
mod id {
    pub(super) const QPACK_MAX_TABLE_CAPACITY: u64 = 0x1;
    pub(super) const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
    pub(super) const QPACK_BLOCKED_STREAMS: u64 = 0x7;
    /// RFC 8441, RFC 9220.
    pub(super) const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;
    /// RFC 9297.
    pub(super) const H3_DATAGRAM: u64 = 0x33;
}

/// Settings of one end; the default is what holds before SETTINGS arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The largest field section that this end accepts; `None` is no limit.
    pub max_field_section_size: Option<u64>,
    /// Whether this end serves extended CONNECT.
    pub enable_connect_protocol: bool,
    /// Whether this end takes HTTP datagrams.
    pub h3_datagram: bool,
    /// Capacity of the dynamic table that the other end may use; we always send 0.
    pub qpack_max_table_capacity: u64,
    /// Streams that the other end may block on the dynamic table.
    pub qpack_blocked_streams: u64,
}

impl Settings {
    /// Appends a whole SETTINGS frame. Settings with their default value are left out; a reserved one, picked by
    /// `seed`, is added to keep peers tolerant (GREASE, RFC 9114 section 7.2.4.1).
    pub fn encode(&self, seed: u64, out: &mut BytesMut) {
        let mut payload = BytesMut::with_capacity(48);
        let mut setting = |identifier: u64, value: u64| {
            varint::encode(identifier, &mut payload);
            varint::encode(value, &mut payload);
        };
        if let Some(size) = self.max_field_section_size {
            setting(id::MAX_FIELD_SECTION_SIZE, size);
        }
        for (identifier, value) in [
            (id::QPACK_MAX_TABLE_CAPACITY, self.qpack_max_table_capacity),
            (id::QPACK_BLOCKED_STREAMS, self.qpack_blocked_streams),
            (
                id::ENABLE_CONNECT_PROTOCOL,
                u64::from(self.enable_connect_protocol),
            ),
            (id::H3_DATAGRAM, u64::from(self.h3_datagram)),
        ] {
            if value != 0 {
                setting(identifier, value);
            }
        }
        setting(grease(seed), seed & 0xff);
        encode_frame_header(kind::SETTINGS, payload.len() as u64, out);
        out.extend_from_slice(&payload);
    }

    /// Decodes the payload of a SETTINGS frame.
    pub fn decode(payload: &[u8]) -> Result<Settings, H3Error> {
        let mut settings = Settings::default();
        let mut rest = payload;
        // A control stream's frames are capped at 4 KiB, so this is at most 2,048 identifiers.
        let mut seen = Vec::with_capacity(8);
        while !rest.is_empty() {
            let identifier = take(&mut rest)?;
            let value = take(&mut rest)?;
            seen.push(identifier);
            settings.set(identifier, value)?;
        }
        seen.sort_unstable();
        match seen.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
            Some([identifier, ..]) => Err(SettingsError::Duplicate(*identifier).into()),
            _ => Ok(settings),
        }
    }

    fn set(&mut self, identifier: u64, value: u64) -> Result<(), SettingsError> {
        match identifier {
            id::QPACK_MAX_TABLE_CAPACITY => self.qpack_max_table_capacity = value,
            id::MAX_FIELD_SECTION_SIZE => self.max_field_section_size = Some(value),
            id::QPACK_BLOCKED_STREAMS => self.qpack_blocked_streams = value,
            id::ENABLE_CONNECT_PROTOCOL => self.enable_connect_protocol = boolean(identifier, value)?,
            id::H3_DATAGRAM => self.h3_datagram = boolean(identifier, value)?,
            // ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE of HTTP/2, and 0x0.
            0x0 | 0x2..=0x5 => return Err(SettingsError::Reserved(identifier)),
            _ => {}
        }
        Ok(())
    }
}

fn boolean(identifier: u64, value: u64) -> Result<bool, SettingsError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(SettingsError::NotBoolean(identifier)),
    }
}

fn take(rest: &mut &[u8]) -> Result<u64, H3Error> {
    let (value, used) = varint::decode(rest).ok_or(H3Error::MalformedFrame(kind::SETTINGS))?;
    *rest = rest.get(used..).unwrap_or_default();
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h3::Code;
    use proptest::prelude::*;

    fn payload(settings: &[(u64, u64)]) -> BytesMut {
        let mut out = BytesMut::new();
        for (identifier, value) in settings {
            varint::encode(*identifier, &mut out);
            varint::encode(*value, &mut out);
        }
        out
    }

    #[test]
    fn rules() {
        for (settings, error) in [
            (&[(0x6, 1), (0x6, 1)][..], SettingsError::Duplicate(0x6)),
            (&[(0x21, 1), (0x6, 1), (0x21, 2)], SettingsError::Duplicate(0x21)),
            (&[(0x0, 0)], SettingsError::Reserved(0x0)),
            (&[(0x2, 0)], SettingsError::Reserved(0x2)),
            (&[(0x3, 100)], SettingsError::Reserved(0x3)),
            (&[(0x4, 0)], SettingsError::Reserved(0x4)),
            (&[(0x5, 0)], SettingsError::Reserved(0x5)),
            (&[(0x8, 2)], SettingsError::NotBoolean(0x8)),
            (&[(0x33, 2)], SettingsError::NotBoolean(0x33)),
        ] {
            let result = Settings::decode(&payload(settings));
            assert_eq!(result, Err(H3Error::Settings(error)), "{settings:?}");
            assert_eq!(H3Error::Settings(error).code(), Code::H3_SETTINGS_ERROR);
        }
        let whole = payload(&[(0x6, 300), (0x1, 4096)]);
        assert_eq!(
            Settings::decode(&whole[..whole.len() - 1]),
            Err(H3Error::MalformedFrame(kind::SETTINGS))
        );
        assert_eq!(
            Settings::decode(&whole[..1]),
            Err(H3Error::MalformedFrame(kind::SETTINGS))
        );
        let settings = Settings::decode(&whole).unwrap();
        assert_eq!(
            (settings.max_field_section_size, settings.qpack_max_table_capacity),
            (Some(300), 4096)
        );
        assert_eq!(Settings::decode(&[]).unwrap(), Settings::default());
    }

    proptest! {
        #[test]
        fn roundtrip(
            size in proptest::option::of(0..=varint::MAX),
            flags: (bool, bool),
            qpack in (0..=varint::MAX, 0..=varint::MAX),
            seed: u64,
        ) {
            let settings = Settings {
                max_field_section_size: size,
                enable_connect_protocol: flags.0,
                h3_datagram: flags.1,
                qpack_max_table_capacity: qpack.0,
                qpack_blocked_streams: qpack.1,
            };
            let mut out = BytesMut::new();
            settings.encode(seed, &mut out);
            prop_assert_eq!(out[0], 4);
            prop_assert_eq!(usize::from(out[1]), out.len() - 2);
            prop_assert_eq!(Settings::decode(&out[2..]), Ok(settings));
        }
    }
}
