"""The VoVNet paper's tables and studies, measured again."""
