//! A network's settings in TOML, which has no null: a setting that is absent although its default is not, such as a UNet's
//! `attention_head_dim` for a single head, is written as `"none"`.

use immiscible_models::NetworkConfig;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

const NONE: &str = "none";

pub(crate) fn serialize<S: Serializer>(network: &NetworkConfig, serializer: S) -> Result<S::Ok, S::Error> {
    table(network).map_err(S::Error::custom)?.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkConfig, D::Error> {
    let table = toml::Table::deserialize(deserializer)?;
    // JSON has no such numbers, and would have nothing in their place.
    if let Some((key, value)) =
        table.iter().find(|(_, value)| value.as_float().is_some_and(|v| !v.is_finite()))
    {
        return Err(D::Error::custom(format!("`{key}`: {value} is not a finite number")));
    }
    let mut settings: Map<String, Value> =
        serde_json::to_value(table).and_then(serde_json::from_value).map_err(D::Error::custom)?;
    for value in settings.values_mut().filter(|value| *value == NONE) {
        *value = Value::Null;
    }
    serde_json::from_value(Value::Object(settings.clone())).map_err(|error| {
        // Each setting by itself, because the error of the whole does not tell which one it was.
        let kind = settings.get("kind");
        let alone = settings.iter().filter(|(key, _)| *key != "kind").find_map(|(key, value)| {
            let error = serde_json::from_value::<NetworkConfig>(json!({ "kind": kind, key: value })).err()?;
            let value = if value.is_null() { &json!(NONE) } else { value };
            Some(format!("`{key}` = {value}: {error}"))
        });
        let unknown = error.to_string().starts_with("unknown ");
        D::Error::custom(alone.filter(|_| !unknown).unwrap_or_else(|| error.to_string()))
    })
}

/// The settings without those that are absent by default.
pub(crate) fn table(network: &NetworkConfig) -> serde_json::Result<Map<String, Value>> {
    let settings = settings(network)?;
    let default = self::settings(&serde_json::from_value(json!({ "kind": network.name() }))?)?;
    let there = |(key, value): (String, Value)| match value {
        Value::Null => default.get(&key).filter(|value| !value.is_null()).map(|_| (key, NONE.into())),
        value => Some((key, value)),
    };
    Ok(settings.into_iter().filter_map(there).collect())
}

fn settings(network: &NetworkConfig) -> serde_json::Result<Map<String, Value>> {
    serde_json::from_value(serde_json::to_value(network)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use immiscible_models::SIZES;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Config {
        #[serde(with = "super")]
        model: NetworkConfig,
    }

    #[test]
    fn what_cannot_be_is_named_with_its_value() {
        for (setting, words) in [
            ("layers_per_block = \"none\"", &["`layers_per_block` = \"none\"", "usize"][..]),
            ("layers_per_block = 1.5", &["`layers_per_block` = 1.5"]),
            ("norm_eps = inf", &["`norm_eps`", "inf is not a finite number"]),
            ("lyers = 2", &["unknown field `lyers`", "`layers_per_block`"]),
        ] {
            let text = format!("[model]\nkind = \"unet\"\n{setting}\n");
            let error = toml::from_str::<Config>(&text).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{setting}: {error}");
        }
    }

    #[test]
    fn every_size_is_itself_after_it_was_written() {
        let mut absent = 0;
        for size in SIZES {
            let config = Config { model: NetworkConfig::of_size(size.name).unwrap() };
            let text = toml::to_string(&config).unwrap();
            absent += text.matches("\"none\"").count();
            assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{}: {text}", size.name);
        }
        assert!(absent > 0, "no size has a single head");
    }
}
