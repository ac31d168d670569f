//! Any text is the options of a data set or one clear error. How to run it: `npy.rs`.

#![no_main]

use immiscible_data::DataOptions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(table) = text.parse::<toml::Table>() else { return };
    if let Ok(options) = table.try_into::<DataOptions>() {
        let again: DataOptions = toml::from_str(&toml::to_string(&options).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{options:?}"), "it does not survive being written down");
        if let Ok(most) = options.most_bad(1000) {
            assert!(most <= 1000);
        }
    }
});
