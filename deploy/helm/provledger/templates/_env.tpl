{{/* The environment of each service: what docs/configuration.md calls its settings. */}}

{{/* One variable of a service; (dict "name" "keys" "key" "port" "value" 7001). */}}
{{- define "provledger.setting" -}}
- name: {{ printf "PROVLEDGER_%s_%s" .name .key | upper }}
  {{- /* Helm reads every number as a float, and would write a large one with an exponent. */}}
  {{- if and (kindIs "float64" .value) (eq (floor .value) .value) }}
  value: {{ .value | int64 | quote }}
  {{- else }}
  value: {{ .value | toString | quote }}
  {{- end }}
{{ end -}}

{{/* What every process has, commands included. */}}
{{- define "provledger.commonEnv" -}}
- name: PROVLEDGER_FIPS
  value: {{ ternary "1" "0" .Values.fips.enabled | quote }}
{{- if .Values.fips.enabled }}
- name: PROVLEDGER_FIPS_DIR
  value: /run/provledger/fips
- name: AWS_USE_FIPS_ENDPOINT
  value: "true"
{{- with .Values.fips.module }}
- name: PROVLEDGER_FIPS_MODULE
  value: {{ . | quote }}
{{- end }}
{{- end }}
- name: HOME
  value: /tmp
{{- with .Values.otel.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := .Values.otel.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Who may call a service, as its allowed_callers. */}}
{{- define "provledger.callers" -}}
{{- $root := .root -}}
{{- $operators := join "," $root.Values.callers.operators -}}
{{- $p := dict -}}
{{- range list "witness" "ledger" "anchor" "gateway" -}}
{{- $_ := set $p . (include "provledger.principal" (dict "root" $root "name" .)) -}}
{{- end -}}
{{- $api := printf "provledger.api.%s.v1.%sService" .name (title .name) -}}
{{- if eq .name "keys" -}}
{{ $api }}/WatchKeys={{ $p.witness }},{{ $p.ledger }},{{ $p.anchor }},{{ $operators }};
{{- /* The ledger signs nothing that keys are drained for. */ -}}
{{ $api }}/ReportSigner={{ $p.witness }},{{ $p.anchor }},{{ $operators }};
{{- range $method := list "EndorseKeyEvent" "ListKeyEvents" "RecordKeyEvent" -}}
{{ $api }}/{{ $method }}={{ $p.ledger }},{{ $operators }};
{{- end -}}
{{ $api }}/GetJwks={{ $p.gateway }},{{ $operators }};*={{ $operators }}
{{- else if eq .name "ledger" -}}
*={{ join "," $root.Values.callers.clients }},{{ $operators }}
{{- else if eq .name "witness" -}}
*={{ $p.ledger }}
{{- else -}}
{{- if eq $root.Values.gateway.tilesFrom "anchor" -}}
{{- range $method := list "ListLogs" "GetCheckpoint" "GetTile" -}}
{{ $api }}/{{ $method }}={{ $p.gateway }},{{ $operators }};
{{- end -}}
{{- end -}}
{{- range $method := list "GetLog" "CreateLog" "SubmitLeaves" "GetLedgerState" "BatchGetInclusionProofs" "GetLedgerHead" "SignKeyEvent" -}}
{{ $api }}/{{ $method }}={{ $p.ledger }},{{ $operators }};
{{- end -}}
*={{ $operators }}
{{- end -}}
{{- end -}}

{{/* All of one service; (dict "root" $ "name" "keys"). */}}
{{- define "provledger.env" -}}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $values := index $root.Values $name -}}
{{- $own := dict "host" $root.Values.listenHost "port" $values.port "log_format" "json" "tls_cert" "/etc/provledger/tls/tls.crt" "tls_key" "/etc/provledger/tls/tls.key" -}}
{{- if has $name (list "keys" "witness" "ledger" "anchor") -}}
{{- $_ := set $own "tls_ca" "/etc/provledger/tls/ca.crt" -}}
{{- $_ := set $own "allowed_callers" (include "provledger.callers" .) -}}
{{- end -}}
{{- if has $name (list "witness" "ledger" "anchor" "gateway") -}}
{{- $_ := set $own "keys_endpoint" (include "provledger.address" (dict "root" $root "name" "keys")) -}}
{{- end -}}
{{- if has $name (list "witness" "anchor") -}}
{{- $_ := set $own "key_dir" "/etc/provledger/keys" -}}
{{- end -}}
{{- if eq $name "ledger" -}}
{{- $_ := set $own "witness_endpoint" (include "provledger.address" (dict "root" $root "name" "witness")) -}}
{{- $_ := set $own "anchor_endpoint" (include "provledger.address" (dict "root" $root "name" "anchor")) -}}
{{- if $root.Values.fips.enabled }}{{ $_ := set $own "default_suite" "fips" }}{{ end -}}
{{- end -}}
{{- if or (has $name (list "anchor" "notary")) (and (eq $name "gateway") (eq $values.tilesFrom "volume")) -}}
{{- $_ := set $own "data_dir" "/var/lib/provledger/data" -}}
{{- end -}}
{{- if and (eq $name "anchor") $values.tileStore }}{{ $_ := set $own "tile_store" $values.tileStore }}{{ end -}}
{{- if eq $name "gateway" -}}
{{- if eq $values.tilesFrom "anchor" }}{{ $_ := set $own "anchor_endpoint" (include "provledger.address" (dict "root" $root "name" "anchor")) }}{{ end -}}
{{- if eq $values.tilesFrom "store" }}{{ $_ := set $own "tile_store" $root.Values.anchor.tileStore }}{{ end -}}
{{- end -}}
{{- if eq $name "anchor" -}}
{{- if $root.Values.fips.enabled }}{{ $_ := set $own "suite" "fips" }}{{ end -}}
{{- with $values.sinks }}{{ $_ := set $own "sinks" (join "," .) }}{{ end -}}
{{- if $values.waitForSinks }}{{ $_ := set $own "wait_for_sinks" "true" }}{{ end -}}
{{- if $values.policy }}{{ $_ := set $own "policy" "/etc/provledger/files/policy" }}{{ end -}}
{{- end -}}
{{- if eq $name "gateway" -}}
{{- $_ := set $own "rpc_tls_cert" "/etc/provledger/rpc-tls/tls.crt" -}}
{{- $_ := set $own "rpc_tls_key" "/etc/provledger/rpc-tls/tls.key" -}}
{{- $_ := set $own "rpc_tls_ca" "/etc/provledger/rpc-tls/ca.crt" -}}
{{- $_ := set $own "drain_delay_s" 5 -}}
{{- end -}}
{{- if eq $name "notary" -}}
{{- $_ := set $own "name" $values.name -}}
{{- $_ := set $own "logs" "/etc/provledger/files/logs" -}}
{{- end -}}
{{- /* `merge` would take a 0 for nothing. */}}
{{- range $key, $value := mergeOverwrite (dict) $own $values.settings -}}
{{ include "provledger.setting" (dict "name" $name "key" $key "value" $value) }}
{{- end -}}
{{- with $values.database -}}
{{- if .secret -}}
- name: {{ printf "PROVLEDGER_%s_DATABASE_URL" $name | upper }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{ end -}}
{{- end -}}
{{ include "provledger.commonEnv" $root }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
