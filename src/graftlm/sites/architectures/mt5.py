"""mT5 (Xue et al., 2021): T5 v1.1, for a hundred languages."""

from graftlm.sites.architectures.t5 import architecture as architecture
