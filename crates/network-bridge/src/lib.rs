//! The network port as a Linux bridge with veth pairs and nftables masquerading.
